{
 "format": "hetero-noise profile",
 "made_from": {
  "a": {
   "columns": 896,
   "engine": "hf",
   "header_sha256": "0167bf71a96261aa1613bd86a6b281c477c645ceb5e11ab66ff3350b4eb11814",
   "machine": {
    "cpu_capability": "AVX512",
    "deterministic": "False",
    "device": "cpu: AMD EPYC",
    "float32_matmul_precision": "highest",
    "mkldnn": "True",
    "platform": "Linux x86_64",
    "python": "3.11.7",
    "threads": "1",
    "torch": "2.13.0+cpu",
    "transformers": "5.19.0",
    "triton": "3.9.0"
   },
   "model": {
    "config_sha256": "b50b2d7274ad6b97ed217c7a9765d8905cd8d71c90c1bfbe6b878168d3c6efeb",
    "name": "real-0.5b",
    "weights_sha256": "15beef20baa8e9583abbaec7891aa04406238c719f9cc614e9c8b865f4dfe937"
   },
   "repeats": 1,
   "rows": 512,
   "text": {
    "name": "LICENSE",
    "sha256": "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
   },
   "variant": "plain"
  },
  "b": {
   "columns": 896,
   "engine": "hf",
   "header_sha256": "2181a01837725718a2223d1e37755d11859d44a71ea55f6e5ec5c4f1a4a61147",
   "machine": {
    "cpu_capability": "AVX512",
    "deterministic": "False",
    "device": "cpu: AMD EPYC",
    "float32_matmul_precision": "highest",
    "mkldnn": "True",
    "platform": "Linux x86_64",
    "python": "3.11.7",
    "threads": "1",
    "torch": "2.13.0+cpu",
    "transformers": "5.19.0",
    "triton": "3.9.0"
   },
   "model": {
    "config_sha256": "b50b2d7274ad6b97ed217c7a9765d8905cd8d71c90c1bfbe6b878168d3c6efeb",
    "name": "real-0.5b",
    "weights_sha256": "15beef20baa8e9583abbaec7891aa04406238c719f9cc614e9c8b865f4dfe937"
   },
   "repeats": 1,
   "rows": 512,
   "text": {
    "name": "LICENSE",
    "sha256": "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
   },
   "variant": "fp32-gemm"
  }
 },
 "name": "bf16-kernel-floor",
 "report": {
  "by_k": [
   {
    "dtype": "bfloat16",
    "exponent": 0.2574467535314364,
    "kind": "linear",
    "ks": 2
   }
  ],
  "held_out_k": [],
  "sentences": [
   "linear in bfloat16 at K 896: held-out rows: the profile is better than a Gaussian; its 337 changed elements are too few to be judged by bin; over all, 0.0114 % changed and the profile says 0.0128 %",
   "linear in bfloat16 at K 896: held-out layers: the profile is better than a Gaussian; its 453 changed elements are too few to be judged by bin; over all, 0.0115 % changed and the profile says 0.0109 %",
   "linear in bfloat16 at K 896: recorded once only: whether the difference is fixed is not known; taken so",
   "linear in bfloat16 at K 4864: held-out rows: the profile is better than a Gaussian; its 210 changed elements are too few to be judged by bin; over all, 0.0305 % changed and the profile says 0.0348 %",
   "linear in bfloat16 at K 4864: held-out layers: the profile is better than a Gaussian; its 324 changed elements are too few to be judged by bin; over all, 0.0353 % changed and the profile says 0.0359 %",
   "linear in bfloat16 at K 4864: recorded once only: whether the difference is fixed is not known; taken so",
   "2 of 2 tables do not tell probabilities down to 1e-06; that of linear at K 4864 tells them down to 5e-06 (2,064,384 elements)"
  ],
  "tables": [
   {
    "bias_ulps": 8.251048900462963e-06,
    "changed": 0.00012580023871527776,
    "correlation": {
     "toward zero or away": {
      "column": 4.7403868682489887e-05,
      "row": 4.602074449352297e-06
     },
     "up or down": {
      "column": 4.49788593796926e-05,
      "row": 2.0848463177111554e-06
     }
    },
    "dtype": "bfloat16",
    "elements": 8847360,
    "fresh": 0.0,
    "gaussian_scale": 1.2100963908174832e-07,
    "held_out": {
     "layers": {
      "better": true,
      "bins": [
       {
        "bin": 0,
        "changed": 202,
        "elements": 7407,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8531204601534167e-05,
         "rms": 1.9314142739055234e-08
        },
        "measured": {
         "bias": 2.183529200410597e-09,
         "changed": 0.027271499932496286,
         "rms": 3.66609113963042e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.4399198507304466e-08,
         "changed": 0.023264795723590637,
         "rms": 3.715004092823348e-06
        }
       },
       {
        "bin": 1,
        "changed": 16,
        "elements": 2370,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8633749182988046e-05,
         "rms": 3.9524875285091525e-08
        },
        "measured": {
         "bias": 6.42961436781731e-10,
         "changed": 0.006751054852320675,
         "rms": 7.793541605128868e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.1740371793760967e-09,
         "changed": 0.004346071187660838,
         "rms": 6.035452470235733e-07
        }
       },
       {
        "bin": 2,
        "changed": 9,
        "elements": 5174,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8562861785268177e-05,
         "rms": 5.5526921583294326e-08
        },
        "measured": {
         "bias": -2.8170713014774902e-09,
         "changed": 0.0017394665635871666,
         "rms": 4.988447480185818e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.9256546407882866e-09,
         "changed": 0.002688915209475895,
         "rms": 6.684247866490797e-07
        }
       },
       {
        "bin": 3,
        "changed": 6,
        "elements": 4517,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8572216565510673e-05,
         "rms": 7.882302834241797e-08
        },
        "measured": {
         "bias": 2.8186511402773685e-10,
         "changed": 0.0013283152534868275,
         "rms": 6.860189413072884e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 7.939667896785498e-10,
         "changed": 0.0029424398728069567,
         "rms": 9.922173054387393e-07
        }
       },
       {
        "bin": 4,
        "changed": 14,
        "elements": 10146,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8584369992443374e-05,
         "rms": 1.1102894553895914e-07
        },
        "measured": {
         "bias": -5.7865158867019115e-09,
         "changed": 0.0013798541297062883,
         "rms": 9.848953003429136e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.3594036391014875e-09,
         "changed": 0.0012250278236010104,
         "rms": 9.015760440103903e-07
        }
       },
       {
        "bin": 5,
        "changed": 12,
        "elements": 9071,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.858140085990711e-05,
         "rms": 1.5750319856150927e-07
        },
        "measured": {
         "bias": 2.5144030754920162e-08,
         "changed": 0.0013228971447469958,
         "rms": 1.330660845398325e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -9.03116942913238e-09,
         "changed": 0.0012756927613283287,
         "rms": 1.3049945654522676e-06
        }
       },
       {
        "bin": 6,
        "changed": 17,
        "elements": 20112,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.852510328818886e-05,
         "rms": 2.2176550052956035e-07
        },
        "measured": {
         "bias": -1.7716540433015785e-09,
         "changed": 0.000845266507557677,
         "rms": 1.4161122373908048e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -7.860532373622611e-09,
         "changed": 0.0008841495359453999,
         "rms": 1.5320851932006478e-06
        }
       },
       {
        "bin": 7,
        "changed": 10,
        "elements": 17936,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8535562189656544e-05,
         "rms": 3.1456852749996093e-07
        },
        "measured": {
         "bias": -7.797633098242953e-09,
         "changed": 0.0005575379125780553,
         "rms": 1.7919441879306864e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -5.001128288518064e-09,
         "changed": 0.000599082066593315,
         "rms": 1.7884013900407915e-06
        }
       },
       {
        "bin": 8,
        "changed": 17,
        "elements": 40213,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8510953041936094e-05,
         "rms": 4.4362698004869107e-07
        },
        "measured": {
         "bias": -8.768491206325658e-09,
         "changed": 0.0004227488623082088,
         "rms": 2.1933638076592976e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -7.706509458817321e-09,
         "changed": 0.0003984909547218862,
         "rms": 2.0580550499604974e-06
        }
       },
       {
        "bin": 9,
        "changed": 14,
        "elements": 35580,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8524644726409322e-05,
         "rms": 6.291884011069952e-07
        },
        "measured": {
         "bias": -1.645844905987138e-08,
         "changed": 0.0003934794828555368,
         "rms": 2.8978937112070292e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.6150841350560985e-09,
         "changed": 0.0003662570320945857,
         "rms": 2.7977039387095942e-06
        }
       },
       {
        "bin": 10,
        "changed": 18,
        "elements": 77991,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8513552355123202e-05,
         "rms": 8.863622596741526e-07
        },
        "measured": {
         "bias": -1.0260864439718834e-08,
         "changed": 0.00023079586106089164,
         "rms": 3.0797791103167013e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -9.399206737025304e-10,
         "changed": 0.00020283986293589962,
         "rms": 2.9343536139410307e-06
        }
       },
       {
        "bin": 11,
        "changed": 12,
        "elements": 68299,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8486863626863605e-05,
         "rms": 1.2585349276143181e-06
        },
        "measured": {
         "bias": 2.585962548501769e-08,
         "changed": 0.00017569803364617345,
         "rms": 4.032239704075792e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 8.489926521206292e-09,
         "changed": 0.0001916523716097851,
         "rms": 4.0520098754966305e-06
        }
       },
       {
        "bin": 12,
        "changed": 13,
        "elements": 146323,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8458555684478512e-05,
         "rms": 1.7681522909326674e-06
        },
        "measured": {
         "bias": -2.6027170968742413e-08,
         "changed": 8.884454255311878e-05,
         "rms": 3.9061441703831195e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 6.031475991911558e-10,
         "changed": 9.757893587691857e-05,
         "rms": 4.0655545614585645e-06
        }
       },
       {
        "bin": 13,
        "changed": 9,
        "elements": 128133,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8463334568779127e-05,
         "rms": 2.5192345809803987e-06
        },
        "measured": {
         "bias": 2.15810579752392e-08,
         "changed": 7.023951675212475e-05,
         "rms": 4.9351645327280785e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.437978811036703e-09,
         "changed": 8.419856153507599e-05,
         "rms": 5.379483689380774e-06
        }
       },
       {
        "bin": 14,
        "changed": 15,
        "elements": 259781,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8412297305020327e-05,
         "rms": 3.528226177938337e-06
        },
        "measured": {
         "bias": 7.070586224729751e-09,
         "changed": 5.7740943333038216e-05,
         "rms": 6.068104823630103e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -5.181529310691389e-09,
         "changed": 5.6339330747112726e-05,
         "rms": 6.1723732871123426e-06
        }
       },
       {
        "bin": 15,
        "changed": 15,
        "elements": 227526,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8395476596101725e-05,
         "rms": 5.044471392663135e-06
        },
        "measured": {
         "bias": -1.210760016215529e-08,
         "changed": 6.592653147332613e-05,
         "rms": 9.059551727538269e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -5.784276193325898e-09,
         "changed": 4.198208480898913e-05,
         "rms": 7.619942242982212e-06
        }
       },
       {
        "bin": 16,
        "changed": 11,
        "elements": 433264,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.830359343306943e-05,
         "rms": 7.015738844885622e-06
        },
        "measured": {
         "bias": 4.878500253252293e-09,
         "changed": 2.538867757302707e-05,
         "rms": 8.762661492338509e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.0542736619263145e-08,
         "changed": 3.301469008454294e-05,
         "rms": 9.423421788297129e-06
        }
       },
       {
        "bin": 17,
        "changed": 11,
        "elements": 363140,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8237907333410955e-05,
         "rms": 1.0060058708777484e-05
        },
        "measured": {
         "bias": -3.0241336387232494e-08,
         "changed": 3.02913476895963e-05,
         "rms": 1.288166342273983e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.574085204634992e-10,
         "changed": 2.3196073773101844e-05,
         "rms": 1.1345447972673803e-05
        }
       },
       {
        "bin": 18,
        "changed": 9,
        "elements": 600541,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.802251513726728e-05,
         "rms": 1.3873047690354775e-05
        },
        "measured": {
         "bias": -5.057057929466553e-09,
         "changed": 1.498648718405571e-05,
         "rms": 1.22670359261898e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.966151930897078e-09,
         "changed": 2.016795456682985e-05,
         "rms": 1.4678925681094905e-05
        }
       },
       {
        "bin": 19,
        "changed": 4,
        "elements": 447306,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7812330880999888e-05,
         "rms": 1.978321002497943e-05
        },
        "measured": {
         "bias": 2.0607573632823713e-08,
         "changed": 8.94242420177686e-06,
         "rms": 1.3343045803783227e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 9.565710376534336e-10,
         "changed": 2.0620387704783916e-05,
         "rms": 2.1297798372812206e-05
        }
       },
       {
        "bin": 20,
        "changed": 8,
        "elements": 534535,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7323357471109798e-05,
         "rms": 2.697730993085464e-05
        },
        "measured": {
         "bias": -6.607476595477665e-09,
         "changed": 1.496627910239741e-05,
         "rms": 2.5117081073623692e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -6.504631366137164e-09,
         "changed": 1.6097595032182888e-05,
         "rms": 2.6025826146073693e-05
        }
       },
       {
        "bin": 21,
        "changed": 7,
        "elements": 261368,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6574739984817587e-05,
         "rms": 3.757292444437504e-05
        },
        "measured": {
         "bias": -3.4579818086304065e-08,
         "changed": 2.6782161549998468e-05,
         "rms": 4.491052873074039e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.0673638389780644e-08,
         "changed": 1.8621803651863722e-05,
         "rms": 3.987999347911324e-05
        }
       },
       {
        "bin": 22,
        "changed": 3,
        "elements": 170139,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.5884975278520604e-05,
         "rms": 5.0758140876520835e-05
        },
        "measured": {
         "bias": -8.846318851328781e-08,
         "changed": 1.763264154603001e-05,
         "rms": 5.859863399664629e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -6.8232006195993386e-09,
         "changed": 8.76250282011437e-06,
         "rms": 3.773961670679749e-05
        }
       },
       {
        "bin": 23,
        "changed": 1,
        "elements": 36507,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.5525957100898875e-05,
         "rms": 7.019429643982435e-05
        },
        "measured": {
         "bias": 5.030973003611243e-07,
         "changed": 2.7392007012353796e-05,
         "rms": 9.612582049467347e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -6.753764392862335e-09,
         "changed": 6.1972536035126424e-06,
         "rms": 4.4428713445096616e-05
        }
       },
       {
        "bin": 24,
        "changed": 0,
        "elements": 17006,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6381476481589327e-05,
         "rms": 0.0001045540737804204
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.499422258324681e-09,
         "changed": 5.392942710957804e-06,
         "rms": 5.996122915605065e-05
        }
       },
       {
        "bin": 25,
        "changed": 0,
        "elements": 4087,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.5550237280158655e-05,
         "rms": 0.00013926888960950077
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -6.006680736298265e-09,
         "changed": 2.7882490815089866e-06,
         "rms": 5.9001901073372146e-05
        }
       },
       {
        "bin": 26,
        "changed": 0,
        "elements": 3457,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.4854721338112253e-05,
         "rms": 0.00018680592710795815
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -4.704370864042683e-09,
         "changed": 1.5838597927642084e-06,
         "rms": 6.10586262815553e-05
        }
       },
       {
        "bin": 27,
        "changed": 0,
        "elements": 121,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.675371876424851e-05,
         "rms": 0.00029708642284806815
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.877988373143181e-09,
         "changed": 8.785114937737148e-07,
         "rms": 6.775369434985035e-05
        }
       },
       {
        "bin": 28,
        "changed": 0,
        "elements": 74,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7807269078945625e-05,
         "rms": 0.0004278961975750684
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.0713309915989637e-09,
         "changed": 4.907922792618535e-07,
         "rms": 7.1797217423861e-05
        }
       },
       {
        "bin": 29,
        "changed": 0,
        "elements": 36,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.4010727765282708e-05,
         "rms": 0.0005613473712869117
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.5872069118040014e-09,
         "changed": 2.816710779063314e-07,
         "rms": 8.005662153939552e-05
        }
       }
      ],
      "changed": 453,
      "elements": 3932160,
      "judged": [],
      "overall": {
       "agrees": {
        "gaussian": {
         "bias": true,
         "changed": false,
         "rms": true
        },
        "nothing": {
         "bias": true,
         "changed": false,
         "rms": false
        },
        "profile": {
         "bias": true,
         "changed": true,
         "rms": false
        }
       },
       "bins": [
        0,
        29
       ],
       "changed": 453,
       "elements": 3932160,
       "gaussian": {
        "bias": 0.0,
        "changed": 1.784557798855393e-05,
        "rms": 2.3420228810952345e-05
       },
       "measured": {
        "bias": -3.5290525268976176e-09,
        "changed": 0.000115203857421875,
        "rms": 2.3029991784072463e-05
       },
       "nothing": {
        "bias": 0.0,
        "changed": 0.0,
        "rms": 0.0
       },
       "profile": {
        "bias": -3.327482313739332e-09,
        "changed": 0.00010908366469892448,
        "rms": 2.03649380775532e-05
       }
      },
      "score": {
       "error": 0.03351878627142165,
       "gaussian": 0.48764113645565516,
       "over_gaussian": 0.43676844928588715,
       "profile": 0.9244095857415425
      },
      "within": {
       "gaussian": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       },
       "nothing": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       },
       "profile": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       }
      }
     },
     "rows": {
      "better": true,
      "bins": [
       {
        "bin": 0,
        "changed": 150,
        "elements": 7234,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.857380732387796e-05,
         "rms": 1.9772179632347468e-08
        },
        "measured": {
         "bias": 3.2553707477226274e-09,
         "changed": 0.020735416090682888,
         "rms": 3.0860076771306317e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.5100531114346034e-08,
         "changed": 0.023264795723590637,
         "rms": 3.814700880521438e-06
        }
       },
       {
        "bin": 1,
        "changed": 17,
        "elements": 2623,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.852247070975308e-05,
         "rms": 3.736975609645701e-08
        },
        "measured": {
         "bias": -1.5769880478695604e-08,
         "changed": 0.006481128478841022,
         "rms": 7.23062456937946e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.00712449271462e-09,
         "changed": 0.004346071187660838,
         "rms": 5.722166913750198e-07
        }
       },
       {
        "bin": 2,
        "changed": 9,
        "elements": 4482,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.854223918584156e-05,
         "rms": 5.9001070523128265e-08
        },
        "measured": {
         "bias": 3.103852923012396e-09,
         "changed": 0.002008032128514056,
         "rms": 5.331448386400292e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 4.179622526398128e-09,
         "changed": 0.002688915209475895,
         "rms": 7.106980305093753e-07
        }
       },
       {
        "bin": 3,
        "changed": 12,
        "elements": 4888,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8485151263018367e-05,
         "rms": 7.497258533763191e-08
        },
        "measured": {
         "bias": -8.229466874878644e-09,
         "changed": 0.0024549918166939444,
         "rms": 8.838691674381971e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 7.561379963815888e-10,
         "changed": 0.0029424398728069567,
         "rms": 9.456051479776023e-07
        }
       },
       {
        "bin": 4,
        "changed": 11,
        "elements": 7917,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.843748867929258e-05,
         "rms": 1.1701990216100553e-07
        },
        "measured": {
         "bias": -1.7330739203482646e-08,
         "changed": 0.0013894151825186308,
         "rms": 1.0108200656798561e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.4991489543183184e-09,
         "changed": 0.0012250278236010104,
         "rms": 9.539836283699357e-07
        }
       },
       {
        "bin": 5,
        "changed": 5,
        "elements": 9446,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8480445385626108e-05,
         "rms": 1.5062946103951167e-07
        },
        "measured": {
         "bias": 3.255151252917392e-09,
         "changed": 0.0005293245818335803,
         "rms": 8.194097636431753e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.655223509271995e-09,
         "changed": 0.0012756927613283287,
         "rms": 1.2515415263815378e-06
        }
       },
       {
        "bin": 6,
        "changed": 8,
        "elements": 14122,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8416724919655938e-05,
         "rms": 2.3197519497763955e-07
        },
        "measured": {
         "bias": 1.0940115587320604e-08,
         "changed": 0.000566491998300524,
         "rms": 1.2516337627486345e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.257091684801562e-09,
         "changed": 0.0008841495359453999,
         "rms": 1.6082182940282947e-06
        }
       },
       {
        "bin": 7,
        "changed": 5,
        "elements": 17485,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8477829594892327e-05,
         "rms": 3.0306341455077424e-07
        },
        "measured": {
         "bias": -4.991896432769717e-09,
         "changed": 0.00028595939376608524,
         "rms": 1.3688807863564504e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -4.820650266511564e-09,
         "changed": 0.000599082066593315,
         "rms": 1.725000635140673e-06
        }
       },
       {
        "bin": 8,
        "changed": 9,
        "elements": 26039,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8484817861663147e-05,
         "rms": 4.6268517598626377e-07
        },
        "measured": {
         "bias": 1.216062226683386e-08,
         "changed": 0.0003456353930642498,
         "rms": 2.0022704750647896e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.05110453179437e-09,
         "changed": 0.0003984909547218862,
         "rms": 2.148701841965587e-06
        }
       },
       {
        "bin": 9,
        "changed": 8,
        "elements": 32775,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.84371457900135e-05,
         "rms": 6.110731088058687e-07
        },
        "measured": {
         "bias": 1.7476453570286358e-08,
         "changed": 0.0002440884820747521,
         "rms": 2.193099612086127e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.543300720491788e-09,
         "changed": 0.0003662570320945857,
         "rms": 2.72227701397491e-06
        }
       },
       {
        "bin": 10,
        "changed": 7,
        "elements": 50944,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8566662786239826e-05,
         "rms": 9.241031789258429e-07
        },
        "measured": {
         "bias": -3.3763910089486045e-09,
         "changed": 0.00013740577889447236,
         "rms": 2.493897554688039e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -9.790897380773627e-10,
         "changed": 0.00020283986293589962,
         "rms": 3.054504008393367e-06
        }
       },
       {
        "bin": 11,
        "changed": 9,
        "elements": 61454,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8463635554003396e-05,
         "rms": 1.2291908766331215e-06
        },
        "measured": {
         "bias": 1.4801703041251016e-08,
         "changed": 0.00014645100400299411,
         "rms": 3.2681767128287935e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 8.293337492750967e-09,
         "changed": 0.0001916523716097851,
         "rms": 3.9595392657541596e-06
        }
       },
       {
        "bin": 12,
        "changed": 12,
        "elements": 95426,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.845701939689096e-05,
         "rms": 1.83797004263327e-06
        },
        "measured": {
         "bias": -1.7179402152042385e-08,
         "changed": 0.00012575189151803492,
         "rms": 4.816442340129007e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 6.275706461016591e-10,
         "changed": 9.757893587691857e-05,
         "rms": 4.227528377494978e-06
        }
       },
       {
        "bin": 13,
        "changed": 9,
        "elements": 114433,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.845492360323713e-05,
         "rms": 2.474596081478662e-06
        },
        "measured": {
         "bias": 9.48355061864452e-09,
         "changed": 7.864864156318544e-05,
         "rms": 5.221519548750104e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.3756108567462638e-09,
         "changed": 8.419856153507599e-05,
         "rms": 5.283327139143817e-06
        }
       },
       {
        "bin": 14,
        "changed": 7,
        "elements": 170309,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8407554843182275e-05,
         "rms": 3.6563133055447264e-06
        },
        "measured": {
         "bias": 2.6052853914281924e-09,
         "changed": 4.110176209125765e-05,
         "rms": 5.41533225486942e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -5.373898426791483e-09,
         "changed": 5.6339330747112726e-05,
         "rms": 6.397603346742269e-06
        }
       },
       {
        "bin": 15,
        "changed": 14,
        "elements": 206177,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8441875903073815e-05,
         "rms": 4.968626306702873e-06
        },
        "measured": {
         "bias": 2.3706581284924824e-08,
         "changed": 6.79028213622276e-05,
         "rms": 9.194236896086053e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -5.688854812600085e-09,
         "changed": 4.198208480898913e-05,
         "rms": 7.495573530521193e-06
        }
       },
       {
        "bin": 16,
        "changed": 7,
        "elements": 278348,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8250230578928993e-05,
         "rms": 7.248203500548643e-06
        },
        "measured": {
         "bias": 1.5914821858184447e-08,
         "changed": 2.5148375414948193e-05,
         "rms": 8.240884627075085e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.0914352844780868e-08,
         "changed": 3.301469008454294e-05,
         "rms": 9.751639952166714e-06
        }
       },
       {
        "bin": 17,
        "changed": 12,
        "elements": 341813,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8286769117639786e-05,
         "rms": 9.903583955723183e-06
        },
        "measured": {
         "bias": 1.3844224108409563e-08,
         "changed": 3.510691518461849e-05,
         "rms": 1.3698475217151959e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.5304985314420695e-10,
         "changed": 2.3196073773101844e-05,
         "rms": 1.115477799727504e-05
        }
       },
       {
        "bin": 18,
        "changed": 9,
        "elements": 366812,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.796790677853022e-05,
         "rms": 1.4306406282884571e-05
        },
        "measured": {
         "bias": 2.692899749305816e-08,
         "changed": 2.45357294744992e-05,
         "rms": 1.645416944429826e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.031245519700972e-09,
         "changed": 2.016795456682985e-05,
         "rms": 1.5163035644259026e-05
        }
       },
       {
        "bin": 19,
        "changed": 7,
        "elements": 435887,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.784408704428583e-05,
         "rms": 1.947621418101047e-05
        },
        "measured": {
         "bias": 8.413189361362289e-09,
         "changed": 1.6059208005744607e-05,
         "rms": 1.795973062693323e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 9.408521169006383e-10,
         "changed": 2.0620387704783916e-05,
         "rms": 2.0947731072495365e-05
        }
       },
       {
        "bin": 20,
        "changed": 6,
        "elements": 302422,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7187170816180207e-05,
         "rms": 2.766565239621418e-05
        },
        "measured": {
         "bias": 4.6694448402209854e-08,
         "changed": 1.9839826467651163e-05,
         "rms": 3.1233863615178486e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -6.6951152388666346e-09,
         "changed": 1.6097595032182888e-05,
         "rms": 2.6797022427548724e-05
        }
       },
       {
        "bin": 21,
        "changed": 2,
        "elements": 259166,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6605462745918804e-05,
         "rms": 3.693475924035702e-05
        },
        "measured": {
         "bias": -1.3434749775493225e-09,
         "changed": 7.717061651605535e-06,
         "rms": 2.241363008559014e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.0487177965950161e-08,
         "changed": 1.8621803651863722e-05,
         "rms": 3.917573389282577e-05
        }
       },
       {
        "bin": 22,
        "changed": 2,
        "elements": 85578,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.5878618911098423e-05,
         "rms": 5.232490688418374e-05
        },
        "measured": {
         "bias": 3.2090061833449785e-07,
         "changed": 2.337049241627521e-05,
         "rms": 6.676566990170314e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -7.026586196202116e-09,
         "changed": 8.76250282011437e-06,
         "rms": 3.889330541913777e-05
        }
       },
       {
        "bin": 23,
        "changed": 0,
        "elements": 35913,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.546144923552457e-05,
         "rms": 6.919639970623781e-05
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -6.664067756769701e-09,
         "changed": 6.1972536035126424e-06,
         "rms": 4.383074001008873e-05
        }
       },
       {
        "bin": 24,
        "changed": 0,
        "elements": 11098,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6656242261489164e-05,
         "rms": 0.0001095114915143912
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.841319656180182e-09,
         "changed": 5.392942710957804e-06,
         "rms": 6.233807621882505e-05
        }
       },
       {
        "bin": 25,
        "changed": 0,
        "elements": 4236,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.5750239098528387e-05,
         "rms": 0.00013755235656983056
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -5.897177171388697e-09,
         "changed": 2.7882490815089866e-06,
         "rms": 5.789668444910424e-05
        }
       },
       {
        "bin": 26,
        "changed": 0,
        "elements": 1697,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.5069351374608298e-05,
         "rms": 0.00020093634656785943
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -5.017003815879027e-09,
         "changed": 1.5838597927642084e-06,
         "rms": 6.527134977714181e-05
        }
       },
       {
        "bin": 27,
        "changed": 0,
        "elements": 262,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.4991313285191081e-05,
         "rms": 0.00025415790988130146
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.510170938568395e-09,
         "changed": 8.785114937737148e-07,
         "rms": 6.119076086746726e-05
        }
       },
       {
        "bin": 28,
        "changed": 0,
        "elements": 76,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.832450064054157e-05,
         "rms": 0.00044374408212363297
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.133044500168157e-09,
         "changed": 4.907922792618535e-07,
         "rms": 7.32392818177524e-05
        }
       },
       {
        "bin": 29,
        "changed": 0,
        "elements": 58,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.4529369586249252e-05,
         "rms": 0.000594855325593952
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.7071119687613922e-09,
         "changed": 2.816710779063314e-07,
         "rms": 8.361384703513158e-05
        }
       }
      ],
      "changed": 337,
      "elements": 2949120,
      "judged": [],
      "overall": {
       "agrees": {
        "gaussian": {
         "bias": true,
         "changed": false,
         "rms": false
        },
        "nothing": {
         "bias": true,
         "changed": false,
         "rms": false
        },
        "profile": {
         "bias": true,
         "changed": false,
         "rms": true
        }
       },
       "bins": [
        0,
        29
       ],
       "changed": 337,
       "elements": 2949120,
       "gaussian": {
        "bias": 0.0,
        "changed": 1.7847641210656305e-05,
        "rms": 2.3456055299262908e-05
       },
       "measured": {
        "bias": 2.3825195324466796e-08,
        "changed": 0.00011427137586805556,
        "rms": 1.9821823239083093e-05
       },
       "nothing": {
        "bias": 0.0,
        "changed": 0.0,
        "rms": 0.0
       },
       "profile": {
        "bias": -3.136960227065082e-09,
        "changed": 0.0001277588647382686,
        "rms": 2.058609292381334e-05
       }
      },
      "score": {
       "error": 0.03809548663927013,
       "gaussian": 0.49009542004004164,
       "over_gaussian": 0.4079703529539477,
       "profile": 0.8980657729939892
      },
      "within": {
       "gaussian": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       },
       "nothing": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       },
       "profile": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       }
      }
     }
    },
    "k": 896,
    "kind": "linear",
    "not_finite": 0,
    "repeated": false,
    "rms_of_row": 2.2340629010105063e-05,
    "rms_ulps": 0.037493066970990835,
    "share_of_squared_error": 0.7151901069189543,
    "sites": 48,
    "structure": null,
    "tail": 1.1302806712962962e-06,
    "unsteady": [
     0.0,
     0.0
    ],
    "up": -1.2610362664709854e-08,
    "widened_bins": 29
   },
   {
    "bias_ulps": -0.0001148042224702381,
    "changed": 0.0003415062313988095,
    "correlation": {
     "toward zero or away": {
      "column": 6.363795152389781e-06,
      "row": 8.602421360006023e-06
     },
     "up or down": {
      "column": 2.120987301720624e-05,
      "row": 2.7725397008623513e-05
     }
    },
    "dtype": "bfloat16",
    "elements": 2064384,
    "fresh": 0.0,
    "gaussian_scale": 2.4924287387315827e-07,
    "held_out": {
     "layers": {
      "better": true,
      "bins": [
       {
        "bin": 0,
        "changed": 136,
        "elements": 1341,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8217470089523e-05,
         "rms": 2.783662748044469e-08
        },
        "measured": {
         "bias": -8.225437947332586e-09,
         "changed": 0.10141685309470544,
         "rms": 8.899291350906091e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.918837765579555e-08,
         "changed": 0.09973273766350887,
         "rms": 1.9698354326003908e-05
        }
       },
       {
        "bin": 1,
        "changed": 5,
        "elements": 485,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.784952333265361e-05,
         "rms": 5.803688626441244e-08
        },
        "measured": {
         "bias": 2.021411581447397e-08,
         "changed": 0.010309278350515464,
         "rms": 9.636359991242113e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.578833344840744e-08,
         "changed": 0.023390125763928182,
         "rms": 1.4412516278544702e-06
        }
       },
       {
        "bin": 2,
        "changed": 10,
        "elements": 767,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.7488641091766646e-05,
         "rms": 7.892251430904157e-08
        },
        "measured": {
         "bias": -1.2735344739748379e-09,
         "changed": 0.01303780964797914,
         "rms": 1.4497819317429979e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 9.113651725313257e-10,
         "changed": 0.014417866014028835,
         "rms": 1.5464447999044913e-06
        }
       },
       {
        "bin": 3,
        "changed": 10,
        "elements": 1098,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.804916936567907e-05,
         "rms": 1.1607768691661508e-07
        },
        "measured": {
         "bias": 3.3290611727602596e-09,
         "changed": 0.009107468123861567,
         "rms": 1.7052728253570009e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.5957593622764916e-08,
         "changed": 0.011548546095317747,
         "rms": 2.0244381903082415e-06
        }
       },
       {
        "bin": 4,
        "changed": 10,
        "elements": 1471,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.807918537817469e-05,
         "rms": 1.5875937763297093e-07
        },
        "measured": {
         "bias": -6.662325842018886e-09,
         "changed": 0.006798096532970768,
         "rms": 2.1877088912050633e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.017222187972339e-09,
         "changed": 0.006367599345019737,
         "rms": 2.0547305812689976e-06
        }
       },
       {
        "bin": 5,
        "changed": 13,
        "elements": 2057,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.826948223587695e-05,
         "rms": 2.314120803024196e-07
        },
        "measured": {
         "bias": 1.2955967638544083e-07,
         "changed": 0.006319883325230919,
         "rms": 2.893866333128897e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.306760402888148e-09,
         "changed": 0.005218164114295654,
         "rms": 2.702392163295531e-06
        }
       },
       {
        "bin": 6,
        "changed": 10,
        "elements": 2966,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8168525691624865e-05,
         "rms": 3.187860699653488e-07
        },
        "measured": {
         "bias": 1.387611651304322e-09,
         "changed": 0.0033715441672285905,
         "rms": 3.064165560089236e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.2081581942401795e-08,
         "changed": 0.004855952863568103,
         "rms": 3.5972203558247266e-06
        }
       },
       {
        "bin": 7,
        "changed": 8,
        "elements": 3913,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.818389488304478e-05,
         "rms": 4.633300544531764e-07
        },
        "measured": {
         "bias": -3.340543910233045e-08,
         "changed": 0.0020444671607462305,
         "rms": 3.4340746995149203e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.099808879039119e-09,
         "changed": 0.0025864000049563574,
         "rms": 3.8146572285861713e-06
        }
       },
       {
        "bin": 8,
        "changed": 7,
        "elements": 6014,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8407594379670516e-05,
         "rms": 6.381420323910278e-07
        },
        "measured": {
         "bias": 5.900232289474444e-08,
         "changed": 0.0011639507815098104,
         "rms": 3.6619616534746764e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.032979560595691e-08,
         "changed": 0.0013035642981952256,
         "rms": 3.7178759960404934e-06
        }
       },
       {
        "bin": 9,
        "changed": 7,
        "elements": 8175,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8173033280579974e-05,
         "rms": 9.26084180791684e-07
        },
        "measured": {
         "bias": -1.4254924185365621e-08,
         "changed": 0.0008562691131498471,
         "rms": 4.4763755170017416e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 4.5101826899064586e-08,
         "changed": 0.0011835110938638316,
         "rms": 5.1567308699308665e-06
        }
       },
       {
        "bin": 10,
        "changed": 13,
        "elements": 11980,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.813612488658493e-05,
         "rms": 1.2720855921221675e-06
        },
        "measured": {
         "bias": 5.612268500537063e-08,
         "changed": 0.0010851419031719532,
         "rms": 6.800715039422265e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.645671982746926e-08,
         "changed": 0.0010445114119820298,
         "rms": 6.657582185133407e-06
        }
       },
       {
        "bin": 11,
        "changed": 9,
        "elements": 16495,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8161686971979725e-05,
         "rms": 1.8534083628341608e-06
        },
        "measured": {
         "bias": 9.260251502667099e-09,
         "changed": 0.0005456198848135798,
         "rms": 6.666669719094932e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 8.553882064268768e-09,
         "changed": 0.0006803272472439836,
         "rms": 7.824802367188033e-06
        }
       },
       {
        "bin": 12,
        "changed": 5,
        "elements": 23748,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.811735521702175e-05,
         "rms": 2.5417661324568166e-06
        },
        "measured": {
         "bias": 8.886377100410081e-08,
         "changed": 0.00021054404581438436,
         "rms": 6.145821686451903e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.380047124028502e-09,
         "changed": 0.0004225093174058392,
         "rms": 8.463014072511555e-06
        }
       },
       {
        "bin": 13,
        "changed": 13,
        "elements": 31669,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8119299598967385e-05,
         "rms": 3.7005081027520466e-06
        },
        "measured": {
         "bias": -9.866111451431519e-08,
         "changed": 0.00041049606871072656,
         "rms": 1.2077309470788457e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.223328235807933e-08,
         "changed": 0.0002770756506397243,
         "rms": 9.976925784616356e-06
        }
       },
       {
        "bin": 14,
        "changed": 15,
        "elements": 46169,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.808748570380912e-05,
         "rms": 5.071610013631729e-06
        },
        "measured": {
         "bias": 5.5754666638187655e-08,
         "changed": 0.00032489332669106974,
         "rms": 1.477472175176825e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 9.913480101426001e-09,
         "changed": 0.00020677743153807437,
         "rms": 1.1818744753799857e-05
        }
       },
       {
        "bin": 15,
        "changed": 10,
        "elements": 60076,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.802556564859257e-05,
         "rms": 7.372976265042783e-06
        },
        "measured": {
         "bias": -3.7521372624186475e-08,
         "changed": 0.00016645582262467541,
         "rms": 1.552555570099283e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.5333303561225426e-08,
         "changed": 0.0001348357316307558,
         "rms": 1.3885491691621626e-05
        }
       },
       {
        "bin": 16,
        "changed": 7,
        "elements": 83384,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.787984976420009e-05,
         "rms": 1.0104042225795514e-05
        },
        "measured": {
         "bias": 6.43662793491338e-08,
         "changed": 8.3948959032908e-05,
         "rms": 1.4829458367374269e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.352964534551276e-08,
         "changed": 0.00010959939209642666,
         "rms": 1.7190133424490457e-05
        }
       },
       {
        "bin": 17,
        "changed": 10,
        "elements": 102489,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.768139731665783e-05,
         "rms": 1.4606628576272938e-05
        },
        "measured": {
         "bias": -1.79563075332986e-08,
         "changed": 9.75714466918401e-05,
         "rms": 2.356083092538734e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.577634174161879e-08,
         "changed": 7.507741387369204e-05,
         "rms": 2.0623099221556714e-05
        }
       },
       {
        "bin": 18,
        "changed": 6,
        "elements": 126735,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.735412673360714e-05,
         "rms": 1.9960030087676503e-05
        },
        "measured": {
         "bias": 5.068142525495113e-08,
         "changed": 4.734288081429755e-05,
         "rms": 2.2965561000805165e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.498339532541614e-08,
         "changed": 5.209071924194841e-05,
         "rms": 2.3580362183132773e-05
        }
       },
       {
        "bin": 19,
        "changed": 9,
        "elements": 131814,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.674186184343061e-05,
         "rms": 2.86732252605288e-05
        },
        "measured": {
         "bias": 3.0676633747737084e-08,
         "changed": 6.827802813054759e-05,
         "rms": 3.7658435526140134e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 6.022903949883472e-08,
         "changed": 4.515289230477837e-05,
         "rms": 3.180048108694131e-05
        }
       },
       {
        "bin": 20,
        "changed": 9,
        "elements": 126668,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.594276690353262e-05,
         "rms": 3.865459275542517e-05
        },
        "measured": {
         "bias": 3.371179817244792e-08,
         "changed": 7.105188366438248e-05,
         "rms": 5.504454141152603e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 6.321181791113694e-08,
         "changed": 4.011401007875115e-05,
         "rms": 4.0887207827722015e-05
        }
       },
       {
        "bin": 21,
        "changed": 2,
        "elements": 78125,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.4064008627999077e-05,
         "rms": 5.441918824505883e-05
        },
        "measured": {
         "bias": 2.4821729738381013e-07,
         "changed": 2.56e-05,
         "rms": 4.9526253961939965e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 7.095477343975252e-08,
         "changed": 3.1116980506840086e-05,
         "rms": 5.2087550369135457e-05
        }
       },
       {
        "bin": 22,
        "changed": 0,
        "elements": 41059,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.2221061907976516e-05,
         "rms": 7.11076048865138e-05
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 6.315256935153575e-08,
         "changed": 2.059743636939615e-05,
         "rms": 5.6966305665364354e-05
        }
       },
       {
        "bin": 23,
        "changed": 0,
        "elements": 7125,
        "gaussian": {
         "bias": 0.0,
         "changed": 2.9797176792257045e-05,
         "rms": 9.81773489099261e-05
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.126366355099225e-08,
         "changed": 1.1652424602881517e-05,
         "rms": 6.147807529575797e-05
        }
       },
       {
        "bin": 24,
        "changed": 0,
        "elements": 1014,
        "gaussian": {
         "bias": 0.0,
         "changed": 2.922207998232234e-05,
         "rms": 0.00013132093403403044
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 4.3823499619422e-08,
         "changed": 7.391616691276859e-06,
         "rms": 6.592282701333256e-05
        }
       },
       {
        "bin": 25,
        "changed": 0,
        "elements": 172,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8302717050629214e-05,
         "rms": 0.00023734606341915368
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 4.145595825083521e-08,
         "changed": 4.425964463150578e-06,
         "rms": 8.065471194258021e-05
        }
       },
       {
        "bin": 26,
        "changed": 0,
        "elements": 170,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.88656386390531e-05,
         "rms": 0.00032240053955164363
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.278496936042869e-08,
         "changed": 2.597130665416003e-06,
         "rms": 8.335840608550109e-05
        }
       },
       {
        "bin": 27,
        "changed": 0,
        "elements": 176,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.63745896725898e-05,
         "rms": 0.0004467882565161586
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.7814699386308524e-08,
         "changed": 1.5278316991551577e-06,
         "rms": 9.212685909155692e-05
        }
       },
       {
        "bin": 28,
        "changed": 0,
        "elements": 109,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.166547121824922e-05,
         "rms": 0.0005864862114795414
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.324808702674334e-08,
         "changed": 9.133695162422129e-07,
         "rms": 9.969854977309194e-05
        }
       },
       {
        "bin": 29,
        "changed": 0,
        "elements": 40,
        "gaussian": {
         "bias": 0.0,
         "changed": 2.8716400713682533e-05,
         "rms": 0.0008117085845301517
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.0429744439952128e-08,
         "changed": 5.577985645599526e-07,
         "rms": 0.00011258580276029862
        }
       }
      ],
      "changed": 324,
      "elements": 917504,
      "judged": [],
      "overall": {
       "agrees": {
        "gaussian": {
         "bias": true,
         "changed": false,
         "rms": true
        },
        "nothing": {
         "bias": true,
         "changed": false,
         "rms": false
        },
        "profile": {
         "bias": true,
         "changed": true,
         "rms": true
        }
       },
       "bins": [
        0,
        29
       ],
       "changed": 324,
       "elements": 917504,
       "gaussian": {
        "bias": 0.0,
        "changed": 3.67551559041983e-05,
        "rms": 3.3588330682875306e-05
       },
       "measured": {
        "bias": 4.158728186704411e-08,
        "changed": 0.00035313197544642856,
        "rms": 3.194227609537883e-05
       },
       "nothing": {
        "bias": 0.0,
        "changed": 0.0,
        "rms": 0.0
       },
       "profile": {
        "bias": 4.388400658736603e-08,
        "changed": 0.0003585717840924847,
        "rms": 3.116362339965367e-05
       }
      },
      "score": {
       "error": 0.11041778308070038,
       "gaussian": 1.7639675572878895,
       "over_gaussian": 1.4603765784559177,
       "profile": 3.224344135743807
      },
      "within": {
       "gaussian": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       },
       "nothing": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       },
       "profile": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       }
      }
     },
     "rows": {
      "better": true,
      "bins": [
       {
        "bin": 0,
        "changed": 84,
        "elements": 931,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8272186317639514e-05,
         "rms": 2.8583131920514998e-08
        },
        "measured": {
         "bias": 2.5560102485487506e-08,
         "changed": 0.09022556390977443,
         "rms": 7.595261980956988e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -9.152229250494538e-08,
         "changed": 0.09973273766350887,
         "rms": 2.024984160358404e-05
        }
       },
       {
        "bin": 1,
        "changed": 4,
        "elements": 343,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.792968460401637e-05,
         "rms": 5.7295372610679584e-08
        },
        "measured": {
         "bias": 6.76669726450232e-08,
         "changed": 0.011661807580174927,
         "rms": 1.056369020060374e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.5409319369790453e-08,
         "changed": 0.023390125763928182,
         "rms": 1.4218185772508925e-06
        }
       },
       {
        "bin": 2,
        "changed": 5,
        "elements": 683,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.843520479359699e-05,
         "rms": 7.993940103396304e-08
        },
        "measured": {
         "bias": -5.601468950880116e-08,
         "changed": 0.007320644216691069,
         "rms": 1.0758977559759939e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 9.119693668226392e-10,
         "changed": 0.014417866014028835,
         "rms": 1.5469217182945108e-06
        }
       },
       {
        "bin": 3,
        "changed": 1,
        "elements": 648,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8121093146731766e-05,
         "rms": 1.1511363513678118e-07
        },
        "measured": {
         "bias": -2.9121641632296002e-08,
         "changed": 0.0015432098765432098,
         "rms": 7.413159699893153e-07
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.577745142039654e-08,
         "changed": 0.011548546095317747,
         "rms": 2.0020586601196403e-06
        }
       },
       {
        "bin": 4,
        "changed": 15,
        "elements": 1331,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8277497736888556e-05,
         "rms": 1.593041270637194e-07
        },
        "measured": {
         "bias": 9.732206452168773e-08,
         "changed": 0.011269722013523666,
         "rms": 2.8842835177508383e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.018935455667123e-09,
         "changed": 0.006367599345019737,
         "rms": 2.055440707053736e-06
        }
       },
       {
        "bin": 5,
        "changed": 7,
        "elements": 1293,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.80403580611854e-05,
         "rms": 2.2913841723365145e-07
        },
        "measured": {
         "bias": 1.4126243088371157e-07,
         "changed": 0.005413766434648105,
         "rms": 2.796017572847183e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.269572463137834e-09,
         "changed": 0.005218164114295654,
         "rms": 2.684389844954867e-06
        }
       },
       {
        "bin": 6,
        "changed": 10,
        "elements": 2519,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8250997703306833e-05,
         "rms": 3.1902422888612843e-07
        },
        "measured": {
         "bias": 3.2008696127904524e-08,
         "changed": 0.003969829297340214,
         "rms": 3.3226735183321e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.2071780525085566e-08,
         "changed": 0.004855952863568103,
         "rms": 3.5936538640536662e-06
        }
       },
       {
        "bin": 7,
        "changed": 2,
        "elements": 2672,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.804135962143955e-05,
         "rms": 4.5974616000836357e-07
        },
        "measured": {
         "bias": -5.043633585605369e-10,
         "changed": 0.0007485029940119761,
         "rms": 1.857783152169142e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.0668970417552065e-09,
         "changed": 0.0025864000049563574,
         "rms": 3.791568848958235e-06
        }
       },
       {
        "bin": 8,
        "changed": 7,
        "elements": 5175,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8097468211946e-05,
         "rms": 6.377207431075087e-07
        },
        "measured": {
         "bias": -6.091286470792332e-08,
         "changed": 0.001352657004830918,
         "rms": 3.8134778464171094e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.044401303102876e-08,
         "changed": 0.0013035642981952256,
         "rms": 3.7307049407143175e-06
        }
       },
       {
        "bin": 9,
        "changed": 8,
        "elements": 5348,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.820002332966459e-05,
         "rms": 9.218317849764077e-07
        },
        "measured": {
         "bias": 5.954707395325971e-09,
         "changed": 0.0014958863126402393,
         "rms": 5.454710571147993e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 4.486609290629728e-08,
         "changed": 0.0011835110938638316,
         "rms": 5.13091008646796e-06
        }
       },
       {
        "bin": 10,
        "changed": 10,
        "elements": 10187,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.7960159321365416e-05,
         "rms": 1.2710904782814406e-06
        },
        "measured": {
         "bias": -8.071231389452681e-08,
         "changed": 0.0009816432708353784,
         "rms": 6.6329221509386935e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.6501347539974787e-08,
         "changed": 0.0010445114119820298,
         "rms": 6.666034540176198e-06
        }
       },
       {
        "bin": 11,
        "changed": 5,
        "elements": 10774,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8148656713730896e-05,
         "rms": 1.8399477343027638e-06
        },
        "measured": {
         "bias": -2.6222580186310513e-08,
         "changed": 0.0004640801930573603,
         "rms": 5.585138638881064e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 8.489301696680262e-09,
         "changed": 0.0006803272472439836,
         "rms": 7.7688612689707e-06
        }
       },
       {
        "bin": 12,
        "changed": 3,
        "elements": 19336,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.814281364472905e-05,
         "rms": 2.560968399995959e-06
        },
        "measured": {
         "bias": -2.7406602036501718e-08,
         "changed": 0.0001551510136532892,
         "rms": 5.444678985404557e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.419902985185113e-09,
         "changed": 0.0004225093174058392,
         "rms": 8.522581165088305e-06
        }
       },
       {
        "bin": 13,
        "changed": 6,
        "elements": 21074,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.816797723581317e-05,
         "rms": 3.683268274490861e-06
        },
        "measured": {
         "bias": -7.346872859803222e-09,
         "changed": 0.0002847110183164088,
         "rms": 1.0207785920436714e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.2160572028813184e-08,
         "changed": 0.0002770756506397243,
         "rms": 9.922188362292761e-06
        }
       },
       {
        "bin": 14,
        "changed": 3,
        "elements": 36821,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.813807635299482e-05,
         "rms": 5.136754682459676e-06
        },
        "measured": {
         "bias": -2.2524268492853925e-08,
         "changed": 8.14752451046957e-05,
         "rms": 8.037221393834443e-06
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.0034851548112023e-08,
         "changed": 0.00020677743153807437,
         "rms": 1.1959382822189984e-05
        }
       },
       {
        "bin": 15,
        "changed": 7,
        "elements": 39966,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.8108231352364426e-05,
         "rms": 7.354196022774047e-06
        },
        "measured": {
         "bias": -4.048178557064542e-08,
         "changed": 0.0001751488765450633,
         "rms": 1.5244272322470465e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.5272331526655274e-08,
         "changed": 0.0001348357316307558,
         "rms": 1.3836011106105293e-05
        }
       },
       {
        "bin": 16,
        "changed": 9,
        "elements": 67976,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.7909600163594866e-05,
         "rms": 1.022795652823659e-05
        },
        "measured": {
         "bias": 2.0050493672249054e-08,
         "changed": 0.00013239967047193126,
         "rms": 1.9080898762601635e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.3937747341893194e-08,
         "changed": 0.00010959939209642666,
         "rms": 1.739379175740912e-05
        }
       },
       {
        "bin": 17,
        "changed": 4,
        "elements": 70334,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.774070847014089e-05,
         "rms": 1.4587682915343502e-05
        },
        "measured": {
         "bias": 6.361448149004501e-08,
         "changed": 5.687149884835215e-05,
         "rms": 1.8408804538900105e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.5634274640934944e-08,
         "changed": 7.507741387369204e-05,
         "rms": 2.057953614695218e-05
        }
       },
       {
        "bin": 18,
        "changed": 7,
        "elements": 104635,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.731750334131531e-05,
         "rms": 2.0265972938174897e-05
        },
        "measured": {
         "bias": 9.152443545991156e-08,
         "changed": 6.689922110192575e-05,
         "rms": 2.8133486576393194e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.5537932164045276e-08,
         "changed": 5.209071924194841e-05,
         "rms": 2.3946252415187477e-05
        }
       },
       {
        "bin": 19,
        "changed": 2,
        "elements": 90798,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6754434883868047e-05,
         "rms": 2.85843194467338e-05
        },
        "measured": {
         "bias": 9.856494939912454e-08,
         "changed": 2.2026916892442564e-05,
         "rms": 2.1011266683827842e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 6.001647367066994e-08,
         "changed": 4.515289230477837e-05,
         "rms": 3.1701883951629694e-05
        }
       },
       {
        "bin": 20,
        "changed": 6,
        "elements": 99919,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.576470051882766e-05,
         "rms": 3.939007793603563e-05
        },
        "measured": {
         "bias": 1.2155581354552817e-07,
         "changed": 6.004863939791231e-05,
         "rms": 4.881513167949617e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 6.454542549500687e-08,
         "changed": 4.011401007875115e-05,
         "rms": 4.174474831687731e-05
        }
       },
       {
        "bin": 21,
        "changed": 4,
        "elements": 55530,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.422722021938026e-05,
         "rms": 5.417171733403699e-05
        },
        "measured": {
         "bias": 3.8469663405912906e-07,
         "changed": 7.203313524221141e-05,
         "rms": 8.002081258543471e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 7.046305698598438e-08,
         "changed": 3.1116980506840086e-05,
         "rms": 5.174076186499089e-05
        }
       },
       {
        "bin": 22,
        "changed": 0,
        "elements": 30800,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.2345801691754793e-05,
         "rms": 7.300444199284031e-05
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 6.47027292072204e-08,
         "changed": 2.059743636939615e-05,
         "rms": 5.838396896258737e-05
        }
       },
       {
        "bin": 23,
        "changed": 1,
        "elements": 7007,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.1077523235659126e-05,
         "rms": 0.00010019714691507433
        },
        "measured": {
         "bias": 2.5966817100960544e-06,
         "changed": 0.00014271442842871414,
         "rms": 0.0002173625786931974
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.1177716969229936e-08,
         "changed": 1.1652424602881517e-05,
         "rms": 6.136886501328696e-05
        }
       },
       {
        "bin": 24,
        "changed": 0,
        "elements": 1440,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.1348074555639384e-05,
         "rms": 0.00013811775536079103
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 4.4540086319401706e-08,
         "changed": 7.391616691276859e-06,
         "rms": 6.702156776799642e-05
        }
       },
       {
        "bin": 25,
        "changed": 0,
        "elements": 313,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.2273642850721136e-05,
         "rms": 0.00020652578548204968
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.9207993587936776e-08,
         "changed": 4.425964463150578e-06,
         "rms": 7.630609008498499e-05
        }
       },
       {
        "bin": 26,
        "changed": 0,
        "elements": 196,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.4976248141582164e-05,
         "rms": 0.00029977172401468084
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.217773904306278e-08,
         "changed": 2.597130665416003e-06,
         "rms": 8.171398072619445e-05
        }
       },
       {
        "bin": 27,
        "changed": 0,
        "elements": 37,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.1453241180005e-05,
         "rms": 0.0004342037334540843
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.892070005522844e-08,
         "changed": 1.5278316991551577e-06,
         "rms": 9.582209119732971e-05
        }
       },
       {
        "bin": 28,
        "changed": 0,
        "elements": 39,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.0044220648667156e-05,
         "rms": 0.000559429563001727
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.2825689126884082e-08,
         "changed": 9.133695162422129e-07,
         "rms": 9.76762990887066e-05
        }
       },
       {
        "bin": 29,
        "changed": 0,
        "elements": 3,
        "gaussian": {
         "bias": 0.0,
         "changed": 2.9432322061095917e-05,
         "rms": 0.0010578196424226125
        },
        "measured": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.6684728208035983e-08,
         "changed": 5.577985645599526e-07,
         "rms": 0.00014562571131746083
        }
       }
      ],
      "changed": 210,
      "elements": 688128,
      "judged": [],
      "overall": {
       "agrees": {
        "gaussian": {
         "bias": true,
         "changed": false,
         "rms": false
        },
        "nothing": {
         "bias": true,
         "changed": false,
         "rms": false
        },
        "profile": {
         "bias": true,
         "changed": false,
         "rms": false
        }
       },
       "bins": [
        0,
        29
       ],
       "changed": 210,
       "elements": 688128,
       "gaussian": {
        "bias": 0.0,
        "changed": 3.6755045507281404e-05,
        "rms": 3.358785535786034e-05
       },
       "measured": {
        "bias": 1.0452629270173308e-07,
        "changed": 0.00030517578125,
        "rms": 4.019439947842948e-05
       },
       "nothing": {
        "bias": 0.0,
        "changed": 0.0,
        "rms": 0.0
       },
       "profile": {
        "bias": 4.389633182453226e-08,
        "changed": 0.0003478609817612928,
        "rms": 3.153524977143475e-05
       }
      },
      "score": {
       "error": 0.13086407718802526,
       "gaussian": 1.5162639187371305,
       "over_gaussian": 1.1730585131215578,
       "profile": 2.6893224318586886
      },
      "within": {
       "gaussian": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       },
       "nothing": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       },
       "profile": {
        "all": 0,
        "bias": 0,
        "changed": 0,
        "judged": 0,
        "rms": 0
       }
      }
     }
    },
    "k": 4864,
    "kind": "linear",
    "not_finite": 0,
    "repeated": false,
    "rms_of_row": 3.453327826266976e-05,
    "rms_ulps": 0.23310564830687705,
    "share_of_squared_error": 0.2848098930810457,
    "sites": 8,
    "structure": null,
    "tail": 4.8440600198412696e-06,
    "unsteady": [
     0.0,
     0.0
    ],
    "up": 1.0069190709062821e-08,
    "widened_bins": 29
   }
  ]
 },
 "tables": [
  {
   "bins": [
    {
     "cumulative": [
      4.597785716124696e-05,
      9.195571432249392e-05,
      0.00013793357148374089,
      0.00018391142864498784,
      0.0003678228572899757,
      0.0005977121430962105,
      0.0006896678574187043,
      0.0017011807149661376,
      0.010666862861409296,
      0.9874020671378186,
      0.9984367528565179,
      0.9988965314281304,
      0.9992183764282592,
      0.9995402214283879,
      0.9995861992855491,
      0.9996321771427104,
      0.9996781549998716,
      0.9997241328570328,
      0.999770110714194,
      0.9998160885713552,
      0.9998620664285164,
      0.9999080442856776,
      0.9999540221428388,
      1.0
     ],
     "n": 21694,
     "values": [
      -48,
      -32,
      -16,
      -10,
      -8,
      -4,
      -3,
      -2,
      -1,
      0,
      1,
      2,
      3,
      4,
      5,
      6,
      8,
      10,
      12,
      13,
      16,
      20,
      42,
      64
     ]
    },
    {
     "cumulative": [
      0.0019986331192239954,
      0.9976525619315632,
      1.0
     ],
     "n": 7449,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0011913866589549154,
      0.998502471449479,
      1.0
     ],
     "n": 13715,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0014493855117131353,
      0.9985069456389062,
      1.0
     ],
     "n": 14347,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0006585513660871552,
      0.9994335235424862,
      1.0
     ],
     "n": 24600,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0007621701054218326,
      0.9994864773440935,
      1.0
     ],
     "n": 27576,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0005187525850980282,
      0.9996346030491526,
      1.0
     ],
     "n": 43736,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0003339696884045055,
      0.9997348876218112,
      1.0
     ],
     "n": 52101,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0002368158588815664,
      0.9998383249041597,
      1.0
     ],
     "n": 80610,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.00019212580288326556,
      0.9998258687707887,
      1.0
     ],
     "n": 97273,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.00010371280457706102,
      0.9999008729416412,
      1.0
     ],
     "n": 155079,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      8.123746969521573e-05,
      0.9998895850980855,
      1.0
     ],
     "n": 181573,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      4.805295433640484e-05,
      0.9999504740184595,
      1.0
     ],
     "n": 294382,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      3.915026132895478e-05,
      0.9999549516997939,
      1.0
     ],
     "n": 336983,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      3.133619516466376e-05,
      0.9999749968644176,
      1.0
     ],
     "n": 521805,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      2.346397427531511e-05,
      0.9999814818894663,
      1.0
     ],
     "n": 608310,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.9737501769897826e-05,
      0.9999867228116853,
      1.0
     ],
     "n": 851439,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.1652964758140514e-05,
      0.999988456890985,
      1.0
     ],
     "n": 1012559,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      9.7817428802666e-06,
      0.9999896137883134,
      1.0
     ],
     "n": 1119964,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.0207693794308892e-05,
      0.9999895873060896,
      1.0
     ],
     "n": 1286649,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      8.552562986148332e-06,
      0.999992454967954,
      1.0
     ],
     "n": 913174,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      9.89127121010483e-06,
      0.9999912694675582,
      1.0
     ],
     "n": 767563,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      4.650051638799269e-06,
      0.9999958875488186,
      1.0
     ],
     "n": 256923,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      3.288734950156923e-06,
      0.9999970914813466,
      1.0
     ],
     "n": 105328,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      2.8619063075762143e-06,
      0.9999974689635966,
      1.0
     ],
     "n": 33995,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.479657408096578e-06,
      0.9999986914083265,
      1.0
     ],
     "n": 12157,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      8.405166852990133e-07,
      0.9999992566568925,
      1.0
     ],
     "n": 5227,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      4.662051351310281e-07,
      0.9999995876936414,
      1.0
     ],
     "n": 745,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      2.6045177835385524e-07,
      0.9999997696594991,
      1.0
     ],
     "n": 248,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.4947613532798325e-07,
      0.9999998678050575,
      1.0
     ],
     "n": 156,
     "values": [
      -1,
      0,
      1
     ]
    }
   ],
   "dtype": "bfloat16",
   "edges": [
    -10.0,
    -9.5,
    -9.0,
    -8.5,
    -8.0,
    -7.5,
    -7.0,
    -6.5,
    -6.0,
    -5.5,
    -5.0,
    -4.5,
    -4.0,
    -3.5,
    -3.0,
    -2.5,
    -2.0,
    -1.5,
    -1.0,
    -0.5,
    0.0,
    0.5,
    1.0,
    1.5,
    2.0,
    2.5,
    3.0,
    3.5,
    4.0
   ],
   "fresh": 0.0,
   "kind": "linear",
   "ks": [
    896
   ],
   "n": 8847360
  },
  {
   "bins": [
    {
     "cumulative": [
      0.00035492077460323474,
      0.0007098415492064695,
      0.0010647623238097042,
      0.001419683098412939,
      0.0024844454222226436,
      0.004259049295238818,
      0.04401017605080112,
      0.9442774383872923,
      0.9929015845079354,
      0.9950311091555548,
      0.996805713028571,
      0.9978704753523807,
      0.9985803169015872,
      0.9989352376761904,
      0.9992901584507936,
      0.9996450792253968,
      1.0
     ],
     "n": 2804,
     "values": [
      -244,
      -208,
      -12,
      -4,
      -3,
      -2,
      -1,
      0,
      1,
      2,
      3,
      4,
      5,
      10,
      16,
      24,
      86
     ]
    },
    {
     "cumulative": [
      0.010321086211793918,
      0.9869309604478658,
      1.0
     ],
     "n": 970,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.007173364971407973,
      0.9927554989573791,
      1.0
     ],
     "n": 1883,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.005348809770373847,
      0.9938002636750561,
      1.0
     ],
     "n": 2042,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.003242694144498023,
      0.9968750947994783,
      1.0
     ],
     "n": 3756,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.002537831616140264,
      0.9973196675018446,
      1.0
     ],
     "n": 4167,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0025455889269559483,
      0.9976896360633879,
      1.0
     ],
     "n": 7476,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0012590517701553557,
      0.998672651765199,
      1.0
     ],
     "n": 8407,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.000503751041772803,
      0.9992001867435776,
      1.0
     ],
     "n": 14966,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.00044061050157878314,
      0.9992570994077149,
      1.0
     ],
     "n": 16430,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0004577032038928239,
      0.9994131917919108,
      1.0
     ],
     "n": 29256,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0003258418872051097,
      0.9996455146399611,
      1.0
     ],
     "n": 32803,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.00020468694180646928,
      0.9997821776244006,
      1.0
     ],
     "n": 56218,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.00012828676317054607,
      0.9998512111125308,
      1.0
     ],
     "n": 64933,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      9.732617381254415e-05,
      0.9998905487422745,
      1.0
     ],
     "n": 107083,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      6.097747918286393e-05,
      0.9999261417475521,
      1.0
     ],
     "n": 125432,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      4.453543175563379e-05,
      0.9999349360396592,
      1.0
     ],
     "n": 197175,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      2.57686222126978e-05,
      0.999950691208339,
      1.0
     ],
     "n": 218425,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      2.0662977962095e-05,
      0.9999685722587202,
      1.0
     ],
     "n": 305460,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.6183943538292677e-05,
      0.9999710310512335,
      1.0
     ],
     "n": 279855,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.5135919466305944e-05,
      0.9999750219093876,
      1.0
     ],
     "n": 294008,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.1741137574164312e-05,
      0.9999806241570673,
      1.0
     ],
     "n": 171113,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      7.771876645786686e-06,
      0.9999871744402764,
      1.0
     ],
     "n": 91719,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      4.396722243170719e-06,
      0.9999927442976403,
      1.0
     ],
     "n": 22038,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      2.789023454558325e-06,
      0.9999953974067632,
      1.0
     ],
     "n": 4082,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.670016075272626e-06,
      0.9999972440516122,
      1.0
     ],
     "n": 1084,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      9.79955893678527e-07,
      0.9999983828252282,
      1.0
     ],
     "n": 555,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      5.76485310525026e-07,
      0.9999990486536113,
      1.0
     ],
     "n": 126,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      3.4463488975635186e-07,
      0.9999994312653735,
      1.0
     ],
     "n": 107,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      2.1046996139816128e-07,
      0.9999996526713968,
      1.0
     ],
     "n": 11,
     "values": [
      -1,
      0,
      1
     ]
    }
   ],
   "dtype": "bfloat16",
   "edges": [
    -10.0,
    -9.5,
    -9.0,
    -8.5,
    -8.0,
    -7.5,
    -7.0,
    -6.5,
    -6.0,
    -5.5,
    -5.0,
    -4.5,
    -4.0,
    -3.5,
    -3.0,
    -2.5,
    -2.0,
    -1.5,
    -1.0,
    -0.5,
    0.0,
    0.5,
    1.0,
    1.5,
    2.0,
    2.5,
    3.0,
    3.5,
    4.0
   ],
   "fresh": 0.0,
   "kind": "linear",
   "ks": [
    4864
   ],
   "n": 2064384
  }
 ],
 "version": 2
}
