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
    "name": "Qwen2.5-Coder-0.5B-Instruct",
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
    "name": "Qwen2.5-Coder-0.5B-Instruct",
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
   "linear in bfloat16 at K 896: held-out rows: the profile is better than a Gaussian; its 337 changed elements are too few to be judged by bin; over all, 0.0114 % changed and the profile says 0.0124 %",
   "linear in bfloat16 at K 896: held-out layers: the profile is better than a Gaussian; its 453 changed elements are too few to be judged by bin; over all, 0.0115 % changed and the profile says 0.0107 %",
   "linear in bfloat16 at K 896: recorded once only: whether the difference is fixed is not known; taken so",
   "linear in bfloat16 at K 4864: held-out rows: the profile is better than a Gaussian; its 210 changed elements are too few to be judged by bin; over all, 0.0305 % changed and the profile says 0.033 %",
   "linear in bfloat16 at K 4864: held-out layers: the profile is better than a Gaussian; its 324 changed elements are too few to be judged by bin; over all, 0.0353 % changed and the profile says 0.0344 %",
   "linear in bfloat16 at K 4864: recorded once only: whether the difference is fixed is not known; taken so",
   "2 of 2 tables do not tell probabilities down to 1e-06; that of linear at K 4864 tells them down to 5e-06 (2,064,384 elements)"
  ],
  "tables": [
   {
    "bias_ulps": 8.251048900462963e-06,
    "changed": 0.00012580023871527776,
    "correlation": {
     "toward zero or away": {
      "column": 4.696416722552106e-05,
      "row": 6.658352518314831e-06
     },
     "up or down": {
      "column": 4.456582724548064e-05,
      "row": 3.769277736684765e-06
     }
    },
    "dtype": "bfloat16",
    "elements": 8847360,
    "fresh": 0.0,
    "gaussian_scale": 1.1523067926266579e-07,
    "held_out": {
     "layers": {
      "better": true,
      "bins": [
       {
        "bin": 0,
        "changed": 192,
        "elements": 5033,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.700193819172231e-05,
         "rms": 2.2749934776426358e-05
        },
        "measured": {
         "bias": 1.2103074289091259e-05,
         "changed": 0.03814822173653885,
         "rms": 0.008703348289365257
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.119897835500373e-05,
         "changed": 0.0314115158667827,
         "rms": 0.005577470408043467
        }
       },
       {
        "bin": 1,
        "changed": 8,
        "elements": 2124,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7044193019259824e-05,
         "rms": 2.2654668186319683e-05
        },
        "measured": {
         "bias": 6.436106678475426e-06,
         "changed": 0.003766478342749529,
         "rms": 0.0003637471383620377
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.6054088150405525e-06,
         "changed": 0.005696196949170229,
         "rms": 0.00042850838947156505
        }
       },
       {
        "bin": 2,
        "changed": 12,
        "elements": 2926,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6884927373505008e-05,
         "rms": 2.2867246791373704e-05
        },
        "measured": {
         "bias": 5.017253732075136e-06,
         "changed": 0.004101161995898838,
         "rms": 0.00034824797490620523
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.824970686146357e-06,
         "changed": 0.004453075171524157,
         "rms": 0.0003875450530747513
        }
       },
       {
        "bin": 3,
        "changed": 14,
        "elements": 4234,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7143806797215816e-05,
         "rms": 2.2594374507003707e-05
        },
        "measured": {
         "bias": -4.828771978644428e-06,
         "changed": 0.0033065658951346244,
         "rms": 0.00028517173040152125
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 4.818220223016323e-07,
         "changed": 0.0022989507483163196,
         "rms": 0.000270885762126511
        }
       },
       {
        "bin": 4,
        "changed": 9,
        "elements": 5824,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6923670702839954e-05,
         "rms": 2.284964621370808e-05
        },
        "measured": {
         "bias": 9.43214090877088e-07,
         "changed": 0.0015453296703296703,
         "rms": 0.00023266654704636038
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.7229513131226927e-07,
         "changed": 0.0020665152230834316,
         "rms": 0.000263692111363779
        }
       },
       {
        "bin": 5,
        "changed": 8,
        "elements": 8209,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7148943453626945e-05,
         "rms": 2.259306128086726e-05
        },
        "measured": {
         "bias": 1.1514740594939474e-06,
         "changed": 0.0009745401388719698,
         "rms": 0.00018745365848204016
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.2904275413058266e-06,
         "changed": 0.0014828563590668642,
         "rms": 0.00021754365664332638
        }
       },
       {
        "bin": 6,
        "changed": 14,
        "elements": 11762,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.69678186700706e-05,
         "rms": 2.2811153613258123e-05
        },
        "measured": {
         "bias": 5.670850411698035e-07,
         "changed": 0.001190273762965482,
         "rms": 0.0001884276327973371
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -7.659702139229618e-07,
         "changed": 0.0010919126379150823,
         "rms": 0.0001909768542147388
        }
       },
       {
        "bin": 7,
        "changed": 21,
        "elements": 16517,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.707222886933294e-05,
         "rms": 2.2636579872478846e-05
        },
        "measured": {
         "bias": 1.47884241294312e-07,
         "changed": 0.0012714173276018649,
         "rms": 0.0001936839526228031
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -7.667511980365748e-07,
         "changed": 0.0007715473348199886,
         "rms": 0.0001574630441325541
        }
       },
       {
        "bin": 8,
        "changed": 7,
        "elements": 23232,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6898550716041573e-05,
         "rms": 2.2860672934350263e-05
        },
        "measured": {
         "bias": -1.5488406870909957e-07,
         "changed": 0.0003013085399449036,
         "rms": 9.13069896892503e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.503028886796966e-07,
         "changed": 0.0005408478001183159,
         "rms": 0.00013498887214455528
        }
       },
       {
        "bin": 9,
        "changed": 20,
        "elements": 32642,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7054104899258523e-05,
         "rms": 2.2650845854461934e-05
        },
        "measured": {
         "bias": -7.31443088139728e-07,
         "changed": 0.0006127075546841493,
         "rms": 0.00014344474927995246
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.0723422248785307e-07,
         "changed": 0.0004436047731921633,
         "rms": 0.00011955864383879994
        }
       },
       {
        "bin": 10,
        "changed": 13,
        "elements": 45757,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.691770630240365e-05,
         "rms": 2.2849612092747853e-05
        },
        "measured": {
         "bias": -3.185013037161382e-07,
         "changed": 0.00028410953515309133,
         "rms": 9.358397939665415e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.0565430699965682e-07,
         "changed": 0.00033056214257598526,
         "rms": 0.00010544392030018247
        }
       },
       {
        "bin": 11,
        "changed": 12,
        "elements": 63688,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7085717420460685e-05,
         "rms": 2.2635104826336135e-05
        },
        "measured": {
         "bias": -9.743041216289482e-08,
         "changed": 0.00018841854038437382,
         "rms": 7.344403134065102e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.242370122638465e-09,
         "changed": 0.0001909737567730163,
         "rms": 7.835694238264721e-05
        }
       },
       {
        "bin": 12,
        "changed": 13,
        "elements": 88072,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.691179200132042e-05,
         "rms": 2.2854741715911504e-05
        },
        "measured": {
         "bias": 5.4686291043883554e-08,
         "changed": 0.00014760650376964302,
         "rms": 6.11866769618091e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.4894151711131115e-07,
         "changed": 0.00018046756030831723,
         "rms": 7.794828733525297e-05
        }
       },
       {
        "bin": 13,
        "changed": 16,
        "elements": 119891,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.707556639972541e-05,
         "rms": 2.264043233846792e-05
        },
        "measured": {
         "bias": -1.0066782033883637e-07,
         "changed": 0.00013345455455371962,
         "rms": 6.449071640348574e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 7.606164350852044e-08,
         "changed": 0.00011853971031716704,
         "rms": 6.176032115283502e-05
        }
       },
       {
        "bin": 14,
        "changed": 13,
        "elements": 162217,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.690783784241417e-05,
         "rms": 2.285467795619783e-05
        },
        "measured": {
         "bias": 1.5055522211764128e-07,
         "changed": 8.01395661367181e-05,
         "rms": 4.8556346143667915e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -6.5489740671462105e-09,
         "changed": 7.075116017385419e-05,
         "rms": 4.879972989994013e-05
        }
       },
       {
        "bin": 15,
        "changed": 10,
        "elements": 215430,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7104213212733677e-05,
         "rms": 2.2625583412730365e-05
        },
        "measured": {
         "bias": 4.2590680471431914e-08,
         "changed": 4.6418790326324094e-05,
         "rms": 4.1838011898649195e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -5.205559133161168e-08,
         "changed": 6.310318968461015e-05,
         "rms": 4.501155377466959e-05
        }
       },
       {
        "bin": 16,
        "changed": 17,
        "elements": 284862,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.686743530444668e-05,
         "rms": 2.2878087711540024e-05
        },
        "measured": {
         "bias": -6.500219325305054e-08,
         "changed": 5.967801953226475e-05,
         "rms": 3.729138653881794e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.842212009068728e-08,
         "changed": 3.1827783803284326e-05,
         "rms": 3.2789428865284195e-05
        }
       },
       {
        "bin": 17,
        "changed": 8,
        "elements": 364335,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7133176639249434e-05,
         "rms": 2.2607532897265248e-05
        },
        "measured": {
         "bias": 1.4944756449093891e-09,
         "changed": 2.1957813550715686e-05,
         "rms": 2.860510351622879e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.0638391305524592e-08,
         "changed": 3.698889942083117e-05,
         "rms": 3.440991819410378e-05
        }
       },
       {
        "bin": 18,
        "changed": 14,
        "elements": 449757,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.684490203614276e-05,
         "rms": 2.2890551609839473e-05
        },
        "measured": {
         "bias": 3.3098930821703016e-09,
         "changed": 3.1127920188012636e-05,
         "rms": 3.0495290436783627e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.7774028793988956e-09,
         "changed": 2.1900149234088673e-05,
         "rms": 2.7224748703647273e-05
        }
       },
       {
        "bin": 19,
        "changed": 10,
        "elements": 519722,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7129661164835173e-05,
         "rms": 2.2615615708873513e-05
        },
        "measured": {
         "bias": -3.761008473061717e-08,
         "changed": 1.9241055795213594e-05,
         "rms": 2.411424522211229e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.4243885267736687e-09,
         "changed": 1.938061043327277e-05,
         "rms": 2.493123438451349e-05
        }
       },
       {
        "bin": 20,
        "changed": 3,
        "elements": 544275,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6879872112687397e-05,
         "rms": 2.2860061172232144e-05
        },
        "measured": {
         "bias": -1.3097540188398762e-08,
         "changed": 5.511919525974921e-06,
         "rms": 1.3201067817164332e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -9.769400053580826e-09,
         "changed": 1.9592135524826304e-05,
         "rms": 2.567692733252312e-05
        }
       },
       {
        "bin": 21,
        "changed": 7,
        "elements": 477804,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.709698111321948e-05,
         "rms": 2.2643802958938062e-05
        },
        "measured": {
         "bias": 3.486640162155114e-08,
         "changed": 1.4650358724497912e-05,
         "rms": 2.1211478698454324e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.452358754923056e-09,
         "changed": 1.9848994921134455e-05,
         "rms": 2.5299164936323093e-05
        }
       },
       {
        "bin": 22,
        "changed": 6,
        "elements": 308135,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.690707441477029e-05,
         "rms": 2.2844678704542854e-05
        },
        "measured": {
         "bias": -2.9438500419771487e-09,
         "changed": 1.9471984682038717e-05,
         "rms": 2.5133316263830525e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -7.140650404010095e-09,
         "changed": 1.494866249851512e-05,
         "rms": 2.2402529722751574e-05
        }
       },
       {
        "bin": 23,
        "changed": 4,
        "elements": 125038,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7015781127594016e-05,
         "rms": 2.2684664159579772e-05
        },
        "measured": {
         "bias": -1.564976338960837e-07,
         "changed": 3.199027495641325e-05,
         "rms": 2.810998760116328e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -4.474500302308283e-09,
         "changed": 9.4998010031766e-06,
         "rms": 1.7553124979811747e-05
        }
       },
       {
        "bin": 24,
        "changed": 2,
        "elements": 31864,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7171735375536722e-05,
         "rms": 2.268063590616949e-05
        },
        "measured": {
         "bias": 2.887396896831608e-07,
         "changed": 6.276675872457946e-05,
         "rms": 3.666153203401168e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -4.005676422664847e-09,
         "changed": 8.507463308937702e-06,
         "rms": 1.6677101529022948e-05
        }
       },
       {
        "bin": 25,
        "changed": 0,
        "elements": 11062,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.668844008563419e-05,
         "rms": 2.289792303226364e-05
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
         "bias": -2.1823811577677037e-09,
         "changed": 4.547504056984231e-06,
         "rms": 1.2364794261849142e-05
        }
       },
       {
        "bin": 26,
        "changed": 0,
        "elements": 6588,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6626264728711093e-05,
         "rms": 2.3045928914877355e-05
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
         "bias": -1.3445247202398271e-09,
         "changed": 2.765763429390944e-06,
         "rms": 9.806125873098788e-06
        }
       },
       {
        "bin": 27,
        "changed": 0,
        "elements": 957,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.660314063200996e-05,
         "rms": 2.2735816366048233e-05
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
         "bias": -7.529610933713814e-10,
         "changed": 1.5914247376569435e-06,
         "rms": 7.1467364652268695e-06
        }
       },
       {
        "bin": 28,
        "changed": 0,
        "elements": 91,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7745580861743955e-05,
         "rms": 2.2254994635440153e-05
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
         "bias": -4.066304389216062e-10,
         "changed": 8.969734156538678e-07,
         "rms": 5.205893403013653e-06
        }
       },
       {
        "bin": 29,
        "changed": 0,
        "elements": 112,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7153522652625453e-05,
         "rms": 2.2743313935500292e-05
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
         "bias": -2.4150964966416304e-10,
         "changed": 5.101074544988649e-07,
         "rms": 4.113669296878064e-06
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
         "rms": false
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
        "changed": 1.6993341101259364e-05,
        "rms": 2.27477473918943e-05
       },
       "measured": {
        "bias": 8.442343816189858e-09,
        "changed": 0.000115203857421875,
        "rms": 0.00031457666322267074
       },
       "nothing": {
        "bias": 0.0,
        "changed": 0.0,
        "rms": 0.0
       },
       "profile": {
        "bias": 2.7935371781761625e-08,
        "changed": 0.00010706834189657291,
        "rms": 0.0002049743085384983
       }
      },
      "score": {
       "error": 0.03421459682970098,
       "gaussian": 0.4832792187017987,
       "over_gaussian": 0.44952549135075814,
       "profile": 0.9328047100525568
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
        "changed": 143,
        "elements": 4981,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.724972202546758e-05,
         "rms": 2.260466733174291e-05
        },
        "measured": {
         "bias": 0.0001700425918500144,
         "changed": 0.028709094559325438,
         "rms": 0.007171047396139645
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.080181449814683e-05,
         "changed": 0.0314115158667827,
         "rms": 0.005512530072385655
        }
       },
       {
        "bin": 1,
        "changed": 9,
        "elements": 2039,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.60147401459392e-05,
         "rms": 2.3351534695248134e-05
        },
        "measured": {
         "bias": 2.138519296196561e-06,
         "changed": 0.004413928396272682,
         "rms": 0.0004057705662071438
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.768160858545312e-06,
         "changed": 0.005696196949170229,
         "rms": 0.0004543036726151665
        }
       },
       {
        "bin": 2,
        "changed": 14,
        "elements": 2887,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8032876682343724e-05,
         "rms": 2.208139318145569e-05
        },
        "measured": {
         "bias": -6.90237873470312e-06,
         "changed": 0.0048493245583650845,
         "rms": 0.00037986552445662245
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.431489298224172e-06,
         "changed": 0.004453075171524157,
         "rms": 0.0003615135736623465
        }
       },
       {
        "bin": 3,
        "changed": 12,
        "elements": 3980,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6054246214988257e-05,
         "rms": 2.3314466794641617e-05
        },
        "measured": {
         "bias": -1.9320173726601396e-06,
         "changed": 0.003015075376884422,
         "rms": 0.0003055411308973412
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.130231643959745e-07,
         "changed": 0.0022989507483163196,
         "rms": 0.00028759106082392773
        }
       },
       {
        "bin": 4,
        "changed": 8,
        "elements": 5434,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.8000495484304818e-05,
         "rms": 2.212102961700108e-05
        },
        "measured": {
         "bias": -2.761289529314424e-06,
         "changed": 0.001472211998527788,
         "rms": 0.00019903647118827574
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.489306109385553e-07,
         "changed": 0.0020665152230834316,
         "rms": 0.0002473482881031375
        }
       },
       {
        "bin": 5,
        "changed": 10,
        "elements": 7374,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6093102654942587e-05,
         "rms": 2.329222088888126e-05
        },
        "measured": {
         "bias": -1.7486813704588355e-06,
         "changed": 0.0013561160835367507,
         "rms": 0.00020307368497224205
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.3715298467636527e-06,
         "changed": 0.0014828563590668642,
         "rms": 0.00023062407840208267
        }
       },
       {
        "bin": 6,
        "changed": 9,
        "elements": 10049,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7849118965347747e-05,
         "rms": 2.221462931312447e-05
        },
        "measured": {
         "bias": -1.7664174332416502e-06,
         "changed": 0.0008956115036322022,
         "rms": 0.00017822967246067288
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -7.264329331768018e-07,
         "changed": 0.0010919126379150823,
         "rms": 0.00018125638418957813
        }
       },
       {
        "bin": 7,
        "changed": 3,
        "elements": 13387,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6235833794528622e-05,
         "rms": 2.3214376762547923e-05
        },
        "measured": {
         "bias": 3.284363762431511e-07,
         "changed": 0.0002240980055277508,
         "rms": 6.573842103400466e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.06393278920926e-07,
         "changed": 0.0007715473348199886,
         "rms": 0.0001654251846594316
        }
       },
       {
        "bin": 8,
        "changed": 7,
        "elements": 18111,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7716167416904858e-05,
         "rms": 2.2295371010521404e-05
        },
        "measured": {
         "bias": 6.43009531717364e-07,
         "changed": 0.0003865054386836729,
         "rms": 0.00010437552394106716
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.380768943055848e-07,
         "changed": 0.0005408478001183159,
         "rms": 0.0001284524047782968
        }
       },
       {
        "bin": 9,
        "changed": 8,
        "elements": 24801,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6324835984326955e-05,
         "rms": 2.316010850201084e-05
        },
        "measured": {
         "bias": 5.18298364274284e-07,
         "changed": 0.00032256763840167734,
         "rms": 9.407207930655654e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.2120472099655307e-07,
         "changed": 0.0004436047731921633,
         "rms": 0.00012490132999515817
        }
       },
       {
        "bin": 10,
        "changed": 10,
        "elements": 33801,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7565119942950654e-05,
         "rms": 2.239577650972553e-05
        },
        "measured": {
         "bias": 9.21478575860173e-07,
         "changed": 0.0002958492352297269,
         "rms": 8.945152070667713e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.0149900676158237e-07,
         "changed": 0.00033056214257598526,
         "rms": 0.00010131735555421982
        }
       },
       {
        "bin": 11,
        "changed": 9,
        "elements": 47107,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6461324560833457e-05,
         "rms": 2.3069537096145878e-05
        },
        "measured": {
         "bias": -3.6828642409957605e-07,
         "changed": 0.00019105440804975907,
         "rms": 8.181700975689472e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.56179554702132e-09,
         "changed": 0.0001909737567730163,
         "rms": 8.134515567524514e-05
        }
       },
       {
        "bin": 12,
        "changed": 11,
        "elements": 65578,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7537485756691735e-05,
         "rms": 2.241325597147721e-05
        },
        "measured": {
         "bias": 1.8188899455210315e-08,
         "changed": 0.00016773918082283693,
         "rms": 7.582427222394465e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.4324287861253793e-07,
         "changed": 0.00018046756030831723,
         "rms": 7.497371315622159e-05
        }
       },
       {
        "bin": 13,
        "changed": 8,
        "elements": 88491,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6491547909202684e-05,
         "rms": 2.3054624896611568e-05
        },
        "measured": {
         "bias": 2.890600060874291e-07,
         "changed": 9.040467392164176e-05,
         "rms": 5.780453594111276e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 7.887010058611675e-08,
         "changed": 0.00011853971031716704,
         "rms": 6.402069016038399e-05
        }
       },
       {
        "bin": 14,
        "changed": 10,
        "elements": 119846,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7434462372503914e-05,
         "rms": 2.24784711926069e-05
        },
        "measured": {
         "bias": 9.047192152779372e-09,
         "changed": 8.344041519950603e-05,
         "rms": 5.1870598220397945e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -6.335145588050494e-09,
         "changed": 7.075116017385419e-05,
         "rms": 4.720691755755765e-05
        }
       },
       {
        "bin": 15,
        "changed": 11,
        "elements": 160211,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.659239922950672e-05,
         "rms": 2.2991333000203293e-05
        },
        "measured": {
         "bias": -1.3839065398571876e-07,
         "changed": 6.865945534326607e-05,
         "rms": 5.139414143998539e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -5.375218398031487e-08,
         "changed": 6.310318968461015e-05,
         "rms": 4.647389644555466e-05
        }
       },
       {
        "bin": 16,
        "changed": 7,
        "elements": 213620,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7371899189943045e-05,
         "rms": 2.2512468189727256e-05
        },
        "measured": {
         "bias": 1.2761412127229344e-07,
         "changed": 3.2768467371968914e-05,
         "rms": 3.304361983330953e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.7203869132529e-08,
         "changed": 3.1827783803284326e-05,
         "rms": 3.174546154317575e-05
        }
       },
       {
        "bin": 17,
        "changed": 8,
        "elements": 274134,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6650806805390544e-05,
         "rms": 2.296404260483392e-05
        },
        "measured": {
         "bias": 1.1675601989383089e-07,
         "changed": 2.9182808407567104e-05,
         "rms": 2.7788443026549906e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.0976561261498368e-08,
         "changed": 3.698889942083117e-05,
         "rms": 3.551685899973862e-05
        }
       },
       {
        "bin": 18,
        "changed": 12,
        "elements": 338797,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7324836793656775e-05,
         "rms": 2.25271743830181e-05
        },
        "measured": {
         "bias": -4.5383689377738115e-09,
         "changed": 3.5419439959621836e-05,
         "rms": 3.0621372395313666e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -1.7214198423705356e-09,
         "changed": 2.1900149234088673e-05,
         "rms": 2.634797911915279e-05
        }
       },
       {
        "bin": 19,
        "changed": 9,
        "elements": 393696,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6694126748955647e-05,
         "rms": 2.2951534247949534e-05
        },
        "measured": {
         "bias": 3.1357187814375075e-09,
         "changed": 2.286027798098025e-05,
         "rms": 2.7108672006455137e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.52687157641263e-09,
         "changed": 1.938061043327277e-05,
         "rms": 2.5699176673232304e-05
        }
       },
       {
        "bin": 20,
        "changed": 9,
        "elements": 412749,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7257817369333534e-05,
         "rms": 2.2551482711685807e-05
        },
        "measured": {
         "bias": -3.230476731156477e-09,
         "changed": 2.1805019515492465e-05,
         "rms": 2.5390421518306007e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -9.507434014899273e-09,
         "changed": 1.9592135524826304e-05,
         "rms": 2.4951206278300995e-05
        }
       },
       {
        "bin": 21,
        "changed": 6,
        "elements": 357196,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.675757983166995e-05,
         "rms": 2.293536313076119e-05
        },
        "measured": {
         "bias": 6.582643746205113e-08,
         "changed": 1.679750053192085e-05,
         "rms": 2.3830442663414334e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.67142414061828e-09,
         "changed": 1.9848994921134455e-05,
         "rms": 2.6001160758522055e-05
        }
       },
       {
        "bin": 22,
        "changed": 3,
        "elements": 223978,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7202712751994943e-05,
         "rms": 2.256907300727101e-05
        },
        "measured": {
         "bias": 2.5269376458670654e-08,
         "changed": 1.3394172641955906e-05,
         "rms": 2.130934130047559e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -6.969395414051431e-09,
         "changed": 1.494866249851512e-05,
         "rms": 2.1809249259132402e-05
        }
       },
       {
        "bin": 23,
        "changed": 1,
        "elements": 88003,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6781290706690983e-05,
         "rms": 2.292895887156027e-05
        },
        "measured": {
         "bias": 8.608521954657883e-08,
         "changed": 1.1363248980148405e-05,
         "rms": 2.553743828461948e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -4.571392424691607e-09,
         "changed": 9.4998010031766e-06,
         "rms": 1.7986104371891338e-05
        }
       },
       {
        "bin": 24,
        "changed": 0,
        "elements": 23549,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.7370197537593892e-05,
         "rms": 2.2472016184672717e-05
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
         "bias": -3.932325760981539e-09,
         "changed": 8.507463308937702e-06,
         "rms": 1.6326757022400257e-05
        }
       },
       {
        "bin": 25,
        "changed": 0,
        "elements": 9841,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6378258222053896e-05,
         "rms": 2.3122990711351488e-05
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
         "bias": -2.2254940134905614e-09,
         "changed": 4.547504056984231e-06,
         "rms": 1.2608642764165334e-05
        }
       },
       {
        "bin": 26,
        "changed": 0,
        "elements": 4035,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.774586931519348e-05,
         "rms": 2.2273552457587468e-05
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
         "bias": -1.2559123579493622e-09,
         "changed": 2.765763429390944e-06,
         "rms": 9.169228116647914e-06
        }
       },
       {
        "bin": 27,
        "changed": 0,
        "elements": 1257,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.603616893523543e-05,
         "rms": 2.3254500026144033e-05
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
         "bias": -7.877083398179347e-10,
         "changed": 1.5914247376569435e-06,
         "rms": 7.509133016578266e-06
        }
       },
       {
        "bin": 28,
        "changed": 0,
        "elements": 62,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.690524017783357e-05,
         "rms": 2.2818252124568365e-05
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
         "bias": -4.274739422020566e-10,
         "changed": 8.969734156538678e-07,
         "rms": 5.4730969165309495e-06
        }
       },
       {
        "bin": 29,
        "changed": 0,
        "elements": 126,
        "gaussian": {
         "bias": 0.0,
         "changed": 1.6660253071494007e-05,
         "rms": 2.3011347732090342e-05
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
         "bias": -2.4723565702475497e-10,
         "changed": 5.101074544988649e-07,
         "rms": 4.198074625637012e-06
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
         "changed": true,
         "rms": false
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
        "changed": 1.6995305791726405e-05,
        "rms": 2.2746279324031216e-05
       },
       "measured": {
        "bias": 3.12240478734494e-07,
        "changed": 0.00011427137586805556,
        "rms": 0.0002982104745591227
       },
       "nothing": {
        "bias": 0.0,
        "changed": 0.0,
        "rms": 0.0
       },
       "profile": {
        "bias": 4.012007635125212e-08,
        "changed": 0.00012445562324158398,
        "rms": 0.00023168148609388202
       }
      },
      "score": {
       "error": 0.03899268836154114,
       "gaussian": 0.48570504415918603,
       "over_gaussian": 0.4235996018340389,
       "profile": 0.9093046459932249
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
      "column": -3.900808525489794e-06,
      "row": 4.340809952602343e-06
     },
     "up or down": {
      "column": 1.3557608854412553e-05,
      "row": 2.9515536957262587e-05
     }
    },
    "dtype": "bfloat16",
    "elements": 2064384,
    "fresh": 0.0,
    "gaussian_scale": 2.4868492555964986e-07,
    "held_out": {
     "layers": {
      "better": true,
      "bins": [
       {
        "bin": 0,
        "changed": 119,
        "elements": 895,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6545981586406195e-05,
         "rms": 3.34733745326529e-05
        },
        "measured": {
         "bias": 0.00013947378339875896,
         "changed": 0.1329608938547486,
         "rms": 0.011279485767730899
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -0.0012928036030941089,
         "changed": 0.128153973914662,
         "rms": 0.04902530562795725
        }
       },
       {
        "bin": 1,
        "changed": 14,
        "elements": 404,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.7425113690014395e-05,
         "rms": 3.3054985231049026e-05
        },
        "measured": {
         "bias": -5.679344375153426e-05,
         "changed": 0.034653465346534656,
         "rms": 0.000985695535571621
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.4952819666554721e-05,
         "changed": 0.03271889538952688,
         "rms": 0.0010154079806215636
        }
       },
       {
        "bin": 2,
        "changed": 8,
        "elements": 540,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.5724754018977646e-05,
         "rms": 3.384267494642058e-05
        },
        "measured": {
         "bias": 1.6327478659533262e-05,
         "changed": 0.014814814814814815,
         "rms": 0.0006539959520104564
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -9.638906785013444e-06,
         "changed": 0.01651814428346199,
         "rms": 0.0007553396242433712
        }
       },
       {
        "bin": 3,
        "changed": 12,
        "elements": 727,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.682731604606202e-05,
         "rms": 3.333045258244932e-05
        },
        "measured": {
         "bias": 1.8080128419048154e-05,
         "changed": 0.016506189821182942,
         "rms": 0.0007288027972533964
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.681308252702615e-06,
         "changed": 0.015830875429981517,
         "rms": 0.0007179176198462707
        }
       },
       {
        "bin": 4,
        "changed": 10,
        "elements": 1066,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.573380440537237e-05,
         "rms": 3.385164099433849e-05
        },
        "measured": {
         "bias": 1.5470941597894008e-05,
         "changed": 0.009380863039399626,
         "rms": 0.0005808104153690252
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.4299325414945076e-06,
         "changed": 0.010860209289033751,
         "rms": 0.0006130678311079946
        }
       },
       {
        "bin": 5,
        "changed": 6,
        "elements": 1455,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.736331403262491e-05,
         "rms": 3.3128399334953795e-05
        },
        "measured": {
         "bias": -1.511585336926011e-05,
         "changed": 0.004123711340206186,
         "rms": 0.0004058016102304978
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.5522070909252427e-07,
         "changed": 0.00634884830740523,
         "rms": 0.0004498256367944331
        }
       },
       {
        "bin": 6,
        "changed": 14,
        "elements": 2054,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.606447766499502e-05,
         "rms": 3.36769657498983e-05
        },
        "measured": {
         "bias": 3.261109280927141e-06,
         "changed": 0.006815968841285297,
         "rms": 0.00045567060970629227
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.4064932297591076e-07,
         "changed": 0.005393781470126924,
         "rms": 0.0004274795276116579
        }
       },
       {
        "bin": 7,
        "changed": 8,
        "elements": 2840,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.732399075888947e-05,
         "rms": 3.312826884926233e-05
        },
        "measured": {
         "bias": 1.0802547111336493e-06,
         "changed": 0.0028169014084507044,
         "rms": 0.00030376218966829725
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.670842552489459e-07,
         "changed": 0.003218482041760673,
         "rms": 0.0003201048676289085
        }
       },
       {
        "bin": 8,
        "changed": 9,
        "elements": 3968,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.619638820701334e-05,
         "rms": 3.363837742366142e-05
        },
        "measured": {
         "bias": 4.654752868897273e-06,
         "changed": 0.0022681451612903227,
         "rms": 0.0002532878387159326
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.2283303243975247e-06,
         "changed": 0.0029061468525397594,
         "rms": 0.00031326469923578684
        }
       },
       {
        "bin": 9,
        "changed": 6,
        "elements": 5725,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.717715199049811e-05,
         "rms": 3.318803435096464e-05
        },
        "measured": {
         "bias": -1.7005330728019674e-06,
         "changed": 0.0010480349344978166,
         "rms": 0.00016623211358476482
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.196624371295483e-07,
         "changed": 0.0017419255753478025,
         "rms": 0.00023627562130396117
        }
       },
       {
        "bin": 10,
        "changed": 10,
        "elements": 8368,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.615223573224238e-05,
         "rms": 3.366050053531249e-05
        },
        "measured": {
         "bias": 2.5375162408686373e-06,
         "changed": 0.0011950286806883365,
         "rms": 0.0002004748780769141
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 8.039081579562394e-07,
         "changed": 0.0010019478895202383,
         "rms": 0.0001841795740381514
        }
       },
       {
        "bin": 11,
        "changed": 11,
        "elements": 11677,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.716872927188568e-05,
         "rms": 3.319430721692949e-05
        },
        "measured": {
         "bias": -1.442642779380043e-06,
         "changed": 0.0009420227798235849,
         "rms": 0.0001826797422252315
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.6305904697752167e-07,
         "changed": 0.0010124327201165295,
         "rms": 0.00018022622070449468
        }
       },
       {
        "bin": 12,
        "changed": 7,
        "elements": 16252,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.602243185080469e-05,
         "rms": 3.3716377556792044e-05
        },
        "measured": {
         "bias": 1.4522479878951691e-06,
         "changed": 0.0004307162195422102,
         "rms": 9.723700182710673e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 6.283879516708472e-07,
         "changed": 0.0006635297433552623,
         "rms": 0.00015036078346869573
        }
       },
       {
        "bin": 13,
        "changed": 8,
        "elements": 23067,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.728892766056147e-05,
         "rms": 3.313970174492615e-05
        },
        "measured": {
         "bias": 9.61170277193909e-07,
         "changed": 0.0003468157974595743,
         "rms": 9.553352559922524e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.928265483992937e-07,
         "changed": 0.0004435680108649809,
         "rms": 0.00011889576891172786
        }
       },
       {
        "bin": 14,
        "changed": 12,
        "elements": 32156,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.606015610494676e-05,
         "rms": 3.36957855829484e-05
        },
        "measured": {
         "bias": 2.949266168447534e-07,
         "changed": 0.0003731807438736161,
         "rms": 0.00011118256505203874
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.9126297138199639e-07,
         "changed": 0.0002580573428411226,
         "rms": 9.364656500103254e-05
        }
       },
       {
        "bin": 15,
        "changed": 11,
        "elements": 44870,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.725530331190186e-05,
         "rms": 3.31533254930519e-05
        },
        "measured": {
         "bias": -5.335482044416155e-07,
         "changed": 0.0002451526632493871,
         "rms": 8.211659175862543e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.380751948841709e-08,
         "changed": 0.00019563763609065088,
         "rms": 7.902292930516685e-05
        }
       },
       {
        "bin": 16,
        "changed": 12,
        "elements": 60889,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.608649393925312e-05,
         "rms": 3.368068318037864e-05
        },
        "measured": {
         "bias": 2.1172473988843394e-07,
         "changed": 0.0001970799323358899,
         "rms": 7.397568063990148e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.7770459570577028e-08,
         "changed": 0.00014843920985507797,
         "rms": 7.095671373648325e-05
        }
       },
       {
        "bin": 17,
        "changed": 11,
        "elements": 82076,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.723517427468927e-05,
         "rms": 3.316634693483466e-05
        },
        "measured": {
         "bias": 8.83185198320641e-08,
         "changed": 0.00013402212583459234,
         "rms": 5.5426322872953926e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 7.268863463918974e-08,
         "changed": 9.772068889657426e-05,
         "rms": 5.589755338830979e-05
        }
       },
       {
        "bin": 18,
        "changed": 6,
        "elements": 104996,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6144074149271905e-05,
         "rms": 3.365124960212378e-05
        },
        "measured": {
         "bias": 1.899266508085616e-07,
         "changed": 5.714503409653701e-05,
         "rms": 4.3953501022677316e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.0692631194521094e-07,
         "changed": 7.905677333819305e-05,
         "rms": 5.169136491147679e-05
        }
       },
       {
        "bin": 19,
        "changed": 10,
        "elements": 127099,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.7194603483974e-05,
         "rms": 3.318836593294084e-05
        },
        "measured": {
         "bias": -1.4341080277212832e-07,
         "changed": 7.86788251677826e-05,
         "rms": 4.470600930906643e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.0625265274562321e-07,
         "changed": 5.0884950321017364e-05,
         "rms": 4.0393355418846146e-05
        }
       },
       {
        "bin": 20,
        "changed": 9,
        "elements": 138070,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.613653730743096e-05,
         "rms": 3.3655984806449356e-05
        },
        "measured": {
         "bias": 2.0741382499205261e-07,
         "changed": 6.518432679075832e-05,
         "rms": 4.565665847569133e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 9.106444321926834e-08,
         "changed": 5.35183162071462e-05,
         "rms": 4.254308957634098e-05
        }
       },
       {
        "bin": 21,
        "changed": 8,
        "elements": 127309,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.72874624809201e-05,
         "rms": 3.313494695522408e-05
        },
        "measured": {
         "bias": -5.113942249731979e-09,
         "changed": 6.283923367554533e-05,
         "rms": 3.902525632699272e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 4.861151548987679e-08,
         "changed": 3.1724349518480466e-05,
         "rms": 3.17842991769492e-05
        }
       },
       {
        "bin": 22,
        "changed": 3,
        "elements": 84511,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.599877053662044e-05,
         "rms": 3.374167430239943e-05
        },
        "measured": {
         "bias": 1.0635960600365948e-07,
         "changed": 3.549833749452734e-05,
         "rms": 3.44966189408994e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 4.1903027475546306e-08,
         "changed": 2.8247821050819688e-05,
         "rms": 3.107935212141033e-05
        }
       },
       {
        "bin": 23,
        "changed": 0,
        "elements": 31212,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.731643149310144e-05,
         "rms": 3.308801734013636e-05
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
         "bias": 2.799776245078953e-08,
         "changed": 1.9627032639135678e-05,
         "rms": 2.4905659329271697e-05
        }
       },
       {
        "bin": 24,
        "changed": 0,
        "elements": 4383,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6309163671905816e-05,
         "rms": 3.3655669901788415e-05
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
         "bias": 1.905685430027797e-08,
         "changed": 1.2912417042598712e-05,
         "rms": 2.094167969077036e-05
        }
       },
       {
        "bin": 25,
        "changed": 0,
        "elements": 241,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.717157781347408e-05,
         "rms": 3.3117075190495115e-05
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
         "bias": 1.1004438299831837e-08,
         "changed": 7.70081590240057e-06,
         "rms": 1.56098289770331e-05
        }
       },
       {
        "bin": 26,
        "changed": 0,
        "elements": 134,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.564485878142791e-05,
         "rms": 3.37480078524826e-05
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
         "bias": 6.972465238822293e-09,
         "changed": 4.698539523340095e-06,
         "rms": 1.262261734439373e-05
        }
       },
       {
        "bin": 27,
        "changed": 0,
        "elements": 195,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.816619088573416e-05,
         "rms": 3.2822935462952155e-05
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
         "bias": 3.956194200692169e-09,
         "changed": 2.818354208233842e-06,
         "rms": 9.32387380033545e-06
        }
       },
       {
        "bin": 28,
        "changed": 0,
        "elements": 202,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.641532322090085e-05,
         "rms": 3.356068654429335e-05
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
         "bias": 2.4894712845248024e-09,
         "changed": 1.6963609156261938e-06,
         "rms": 7.537935784859855e-06
        }
       },
       {
        "bin": 29,
        "changed": 0,
        "elements": 123,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.615472182749081e-05,
         "rms": 3.3790850013515785e-05
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
         "bias": 1.5425526063722278e-09,
         "changed": 1.0368467250332358e-06,
         "rms": 5.990750968847872e-06
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
         "rms": false
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
       "changed": 324,
       "elements": 917504,
       "gaussian": {
        "bias": 0.0,
        "changed": 3.667287681260782e-05,
        "rms": 3.341879298275301e-05
       },
       "measured": {
        "bias": 2.521835555181688e-07,
        "changed": 0.00035313197544642856,
        "rms": 0.00036163772200025585
       },
       "nothing": {
        "bias": 0.0,
        "changed": 0.0,
        "rms": 0.0
       },
       "profile": {
        "bias": -1.165019705995831e-06,
        "changed": 0.00034386367876307604,
        "rms": 0.001533540297491749
       }
      },
      "score": {
       "error": 0.10751900329241944,
       "gaussian": 1.7633081882476394,
       "over_gaussian": 1.4703454471974162,
       "profile": 3.233653635445056
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
        "changed": 78,
        "elements": 600,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.649374897094789e-05,
         "rms": 3.346594822241493e-05
        },
        "measured": {
         "bias": -0.0002289799738014591,
         "changed": 0.13,
         "rms": 0.009599388351804383
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -0.0012922300310674892,
         "changed": 0.128153973914662,
         "rms": 0.048963626016756336
        }
       },
       {
        "bin": 1,
        "changed": 4,
        "elements": 279,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.68026327823073e-05,
         "rms": 3.324972879402267e-05
        },
        "measured": {
         "bias": -3.28371303246822e-06,
         "changed": 0.014336917562724014,
         "rms": 0.0005845304114278244
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.5129527856568504e-05,
         "changed": 0.03271889538952688,
         "rms": 0.001024317029731719
        }
       },
       {
        "bin": 2,
        "changed": 7,
        "elements": 430,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.631396953450768e-05,
         "rms": 3.361968060378835e-05
        },
        "measured": {
         "bias": 3.5699254275750126e-05,
         "changed": 0.01627906976744186,
         "rms": 0.0007131184641204485
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -9.512300938492794e-06,
         "changed": 0.01651814428346199,
         "rms": 0.0007466971430300168
        }
       },
       {
        "bin": 3,
        "changed": 3,
        "elements": 547,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.7123388335195574e-05,
         "rms": 3.314337524592541e-05
        },
        "measured": {
         "bias": -3.183801431533486e-05,
         "changed": 0.005484460694698354,
         "rms": 0.00043631856243357914
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -8.584128761347224e-06,
         "changed": 0.015830875429981517,
         "rms": 0.0007088314510452674
        }
       },
       {
        "bin": 4,
        "changed": 4,
        "elements": 775,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6578238280193294e-05,
         "rms": 3.356522585331746e-05
        },
        "measured": {
         "bias": 1.5038724716144077e-06,
         "changed": 0.005161290322580645,
         "rms": 0.00040952776770640536
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.4058378907959954e-06,
         "changed": 0.010860209289033751,
         "rms": 0.0006047374943535499
        }
       },
       {
        "bin": 5,
        "changed": 10,
        "elements": 1138,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.721124800566774e-05,
         "rms": 3.3084124008094196e-05
        },
        "measured": {
         "bias": 4.2934771000308945e-05,
         "changed": 0.008787346221441126,
         "rms": 0.0005916782040521999
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -3.542718553240233e-07,
         "changed": 0.00634884830740523,
         "rms": 0.00044711625105798013
        }
       },
       {
        "bin": 6,
        "changed": 11,
        "elements": 1556,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.620255341073337e-05,
         "rms": 3.3688363816483274e-05
        },
        "measured": {
         "bias": 2.2153454125631705e-05,
         "changed": 0.007069408740359897,
         "rms": 0.0004811385198173468
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.40812247462919e-07,
         "changed": 0.005393781470126924,
         "rms": 0.0004285924905712041
        }
       },
       {
        "bin": 7,
        "changed": 8,
        "elements": 2138,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6961779555613123e-05,
         "rms": 3.32312555952648e-05
        },
        "measured": {
         "bias": 4.828958144968334e-06,
         "changed": 0.0037418147801683817,
         "rms": 0.00034332789041421603
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.6937013233788984e-07,
         "changed": 0.003218482041760673,
         "rms": 0.0003214560689851596
        }
       },
       {
        "bin": 8,
        "changed": 5,
        "elements": 3155,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6221077710248085e-05,
         "rms": 3.366855173368245e-05
        },
        "measured": {
         "bias": -4.033503385542096e-06,
         "changed": 0.001584786053882726,
         "rms": 0.0002280620890459325
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.2305349874310704e-06,
         "changed": 0.0029061468525397594,
         "rms": 0.00031416392505549396
        }
       },
       {
        "bin": 9,
        "changed": 4,
        "elements": 4381,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6893875420795595e-05,
         "rms": 3.325600810340478e-05
        },
        "measured": {
         "bias": -2.907943965164472e-06,
         "changed": 0.0009130335539831089,
         "rms": 0.00017821724201513676
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 5.217933002669336e-07,
         "changed": 0.0017419255753478025,
         "rms": 0.00023681170444253823
        }
       },
       {
        "bin": 10,
        "changed": 11,
        "elements": 6333,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.601872208150452e-05,
         "rms": 3.378304673801538e-05
        },
        "measured": {
         "bias": -1.6775234684281413e-07,
         "changed": 0.0017369335228169904,
         "rms": 0.00023536817059464536
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 8.097723145551916e-07,
         "changed": 0.0010019478895202383,
         "rms": 0.0001858024300106895
        }
       },
       {
        "bin": 11,
        "changed": 8,
        "elements": 8761,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.705508466940089e-05,
         "rms": 3.31911358910253e-05
        },
        "measured": {
         "bias": -3.9815602328070385e-06,
         "changed": 0.0009131377696609977,
         "rms": 0.00019128665175507944
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.6302789171501484e-07,
         "changed": 0.0010124327201165295,
         "rms": 0.00017987800111234108
        }
       },
       {
        "bin": 12,
        "changed": 5,
        "elements": 12159,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6310466505529915e-05,
         "rms": 3.362925819945912e-05
        },
        "measured": {
         "bias": 3.765156388041744e-07,
         "changed": 0.0004112180277983387,
         "rms": 8.531213928164024e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 6.25144778394313e-07,
         "changed": 0.0006635297433552623,
         "rms": 0.0001497969676536868
        }
       },
       {
        "bin": 13,
        "changed": 1,
        "elements": 16933,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6946518764693795e-05,
         "rms": 3.3250783600505685e-05
        },
        "measured": {
         "bias": 3.433504688107301e-07,
         "changed": 5.905628063544558e-05,
         "rms": 4.467911879028432e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.941213958494231e-07,
         "changed": 0.0004435680108649809,
         "rms": 0.00011951763743874996
        }
       },
       {
        "bin": 14,
        "changed": 5,
        "elements": 23308,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.647740938856763e-05,
         "rms": 3.355388108278098e-05
        },
        "measured": {
         "bias": -2.1136728604519516e-07,
         "changed": 0.00021451862021623476,
         "rms": 8.267696591119045e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.8965541567737422e-07,
         "changed": 0.0002580573428411226,
         "rms": 9.301731403093677e-05
        }
       },
       {
        "bin": 15,
        "changed": 5,
        "elements": 32465,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.699395175370406e-05,
         "rms": 3.323278974532132e-05
        },
        "measured": {
         "bias": -1.1097031501832377e-07,
         "changed": 0.00015401201293700908,
         "rms": 6.367053199700895e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 3.3969778254416816e-08,
         "changed": 0.00019563763609065088,
         "rms": 7.929976817388655e-05
        }
       },
       {
        "bin": 16,
        "changed": 8,
        "elements": 45045,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6431478556509535e-05,
         "rms": 3.35648176329518e-05
        },
        "measured": {
         "bias": -3.145211980265029e-07,
         "changed": 0.0001776001776001776,
         "rms": 7.2231651584334e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": -2.757972086421776e-08,
         "changed": 0.00014843920985507797,
         "rms": 7.057303083313843e-05
        }
       },
       {
        "bin": 17,
        "changed": 7,
        "elements": 60657,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6906237460386344e-05,
         "rms": 3.3276430942200407e-05
        },
        "measured": {
         "bias": 2.72749528450672e-07,
         "changed": 0.00011540300377532683,
         "rms": 5.7936887185496985e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 7.317196407420099e-08,
         "changed": 9.772068889657426e-05,
         "rms": 5.619451005390449e-05
        }
       },
       {
        "bin": 18,
        "changed": 8,
        "elements": 79153,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.647227118871285e-05,
         "rms": 3.354295704627525e-05
        },
        "measured": {
         "bias": 3.7438802770937954e-08,
         "changed": 0.00010107007946634998,
         "rms": 6.107256397722788e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.0623922352351413e-07,
         "changed": 7.905677333819305e-05,
         "rms": 5.1433293151245724e-05
        }
       },
       {
        "bin": 19,
        "changed": 5,
        "elements": 95669,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.681380223861405e-05,
         "rms": 3.3316761483470075e-05
        },
        "measured": {
         "bias": 1.8742171404384218e-07,
         "changed": 5.2263533642036604e-05,
         "rms": 4.3969809194434724e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 1.0707636048276344e-07,
         "changed": 5.0884950321017364e-05,
         "rms": 4.064365264771655e-05
        }
       },
       {
        "bin": 20,
        "changed": 2,
        "elements": 104031,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6606507657460545e-05,
         "rms": 3.34859630390141e-05
        },
        "measured": {
         "bias": 1.0234972792580703e-07,
         "changed": 1.9225038690390365e-05,
         "rms": 2.3823954288241854e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 9.014669681090383e-08,
         "changed": 5.35183162071462e-05,
         "rms": 4.218473579425153e-05
        }
       },
       {
        "bin": 21,
        "changed": 6,
        "elements": 94224,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.667827624913028e-05,
         "rms": 3.338280523873599e-05
        },
        "measured": {
         "bias": 9.159979277892377e-08,
         "changed": 6.367804381049414e-05,
         "rms": 4.458334492052477e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 4.9341489846372406e-08,
         "changed": 3.1724349518480466e-05,
         "rms": 3.222008172360814e-05
        }
       },
       {
        "bin": 22,
        "changed": 3,
        "elements": 63245,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.672219717996313e-05,
         "rms": 3.342955242205331e-05
        },
        "measured": {
         "bias": 9.680006163702139e-08,
         "changed": 4.7434579808680526e-05,
         "rms": 3.383838550878568e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 4.1131378759251e-08,
         "changed": 2.8247821050819688e-05,
         "rms": 3.0545701593837775e-05
        }
       },
       {
        "bin": 23,
        "changed": 2,
        "elements": 24918,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.6504844924086955e-05,
         "rms": 3.346096580822474e-05
        },
        "measured": {
         "bias": 4.800434420113282e-07,
         "changed": 8.026326350429408e-05,
         "rms": 5.54548322905061e-05
        },
        "nothing": {
         "bias": 0.0,
         "changed": 0.0,
         "rms": 0.0
        },
        "profile": {
         "bias": 2.8632467694927847e-08,
         "changed": 1.9627032639135678e-05,
         "rms": 2.5457355753727262e-05
        }
       },
       {
        "bin": 24,
        "changed": 0,
        "elements": 4888,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.676032923049e-05,
         "rms": 3.341018533370435e-05
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
         "bias": 1.8779866655108262e-08,
         "changed": 1.2912417042598712e-05,
         "rms": 2.0626509417284633e-05
        }
       },
       {
        "bin": 25,
        "changed": 0,
        "elements": 863,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.789006867951958e-05,
         "rms": 3.2873378386618664e-05
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
         "bias": 1.0843078673924945e-08,
         "changed": 7.70081590240057e-06,
         "rms": 1.542138794300724e-05
        }
       },
       {
        "bin": 26,
        "changed": 0,
        "elements": 256,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.5548516822949284e-05,
         "rms": 3.398836439560205e-05
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
         "bias": 7.072136041892283e-09,
         "changed": 4.698539523340095e-06,
         "rms": 1.2869563369867563e-05
        }
       },
       {
        "bin": 27,
        "changed": 0,
        "elements": 134,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.80022289700242e-05,
         "rms": 3.2686533223533767e-05
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
         "bias": 3.9233810191016845e-09,
         "changed": 2.818354208233842e-06,
         "rms": 9.186728754364425e-06
        }
       },
       {
        "bin": 28,
        "changed": 0,
        "elements": 65,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.5276354527752776e-05,
         "rms": 3.422602188297636e-05
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
         "bias": 2.589156461761679e-09,
         "changed": 1.6963609156261938e-06,
         "rms": 7.85716393865151e-06
        }
       },
       {
        "bin": 29,
        "changed": 0,
        "elements": 22,
        "gaussian": {
         "bias": 0.0,
         "changed": 3.3767793345745364e-05,
         "rms": 3.45193400900772e-05
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
         "bias": 1.6097807137052805e-09,
         "changed": 1.0368467250332358e-06,
         "rms": 6.173504363346088e-06
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
         "changed": true,
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
        "changed": 3.6672766662822464e-05,
        "rms": 3.3418763047976175e-05
       },
       "measured": {
        "bias": -6.461476970926957e-08,
        "changed": 0.00030517578125,
        "rms": 0.0002941747392027852
       },
       "nothing": {
        "bias": 0.0,
        "changed": 0.0,
        "rms": 0.0
       },
       "profile": {
        "bias": -1.0312335615088367e-06,
        "changed": 0.0003303203073989716,
        "rms": 0.0014483059447468701
       }
      },
      "score": {
       "error": 0.1333121628484081,
       "gaussian": 1.5157043153423284,
       "over_gaussian": 1.1997787032485878,
       "profile": 2.7154830185909167
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
      8.174573061655636e-05,
      0.00017340003464118016,
      0.00025514576525773654,
      0.0003415626804809533,
      0.0005862402168855304,
      0.0009113014621528624,
      0.0010841352925992959,
      0.0025346746667152297,
      0.014822759128247365,
      0.9834112432614647,
      0.997739078880674,
      0.9983812504555951,
      0.9987947303749634,
      0.9993016787828812,
      0.9993933330869058,
      0.9994445973586484,
      0.9995089503806232,
      0.9996006046846477,
      0.9996501881605955,
      0.9997119145286121,
      0.9997614980045598,
      0.9998318373541601,
      0.9999182542693834,
      1.0
     ],
     "n": 14803,
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
      0.002614731898302925,
      0.9969185349491327,
      1.0
     ],
     "n": 6227,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.001714450086521786,
      0.9972613749149977,
      1.0
     ],
     "n": 8464,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0011060879179953752,
      0.9988071371696791,
      1.0
     ],
     "n": 11829,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0010660374330333366,
      0.9989995222099499,
      1.0
     ],
     "n": 16240,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0008576430361545908,
      0.9993747866770877,
      1.0
     ],
     "n": 22086,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0006136262246494549,
      0.9995217135867344,
      1.0
     ],
     "n": 29962,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.000454561405642097,
      0.9996830140708222,
      1.0
     ],
     "n": 40660,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.00029244129987812277,
      0.9997515934997598,
      1.0
     ],
     "n": 55287,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.00024933065716869275,
      0.9998057258839765,
      1.0
     ],
     "n": 74656,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.00017458374375253064,
      0.9998440216011766,
      1.0
     ],
     "n": 103003,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      9.622642453583174e-05,
      0.9999052526677629,
      1.0
     ],
     "n": 140760,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      7.712563247026747e-05,
      0.999896658072162,
      1.0
     ],
     "n": 195479,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      5.244844032314072e-05,
      0.999933908730006,
      1.0
     ],
     "n": 268432,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      3.595194992584045e-05,
      0.999965200789752,
      1.0
     ],
     "n": 360532,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      3.62262114641133e-05,
      0.9999731230217795,
      1.0
     ],
     "n": 481227,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.9288474568661548e-05,
      0.9999874606907654,
      1.0
     ],
     "n": 640160,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.9451308400693415e-05,
      0.9999824624089798,
      1.0
     ],
     "n": 822573,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.1106012470081303e-05,
      0.999989205863236,
      1.0
     ],
     "n": 1018406,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      9.382522386081845e-06,
      0.9999900019119529,
      1.0
     ],
     "n": 1183161,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.065545976043252e-05,
      0.9999910633242356,
      1.0
     ],
     "n": 1232749,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.068230230229866e-05,
      0.9999908333073811,
      1.0
     ],
     "n": 1070609,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      8.103324304269058e-06,
      0.9999931546618057,
      1.0
     ],
     "n": 669712,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      5.149622473730523e-06,
      0.9999956498214706,
      1.0
     ],
     "n": 264193,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      4.6116991540847e-06,
      0.9999961042358452,
      1.0
     ],
     "n": 70164,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      2.4650968039974697e-06,
      0.999997917592747,
      1.0
     ],
     "n": 29436,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.4992564063844098e-06,
      0.999998733492977,
      1.0
     ],
     "n": 12255,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      8.626745540877919e-07,
      0.9999992712498165,
      1.0
     ],
     "n": 3717,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      4.862285492373418e-07,
      0.9999995892551335,
      1.0
     ],
     "n": 187,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      2.765174566030201e-07,
      0.9999997664100021,
      1.0
     ],
     "n": 391,
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
      0.0006712498461649567,
      0.0013424996923299135,
      0.0017546706505013783,
      0.002166841608672843,
      0.0037665939158431586,
      0.0066193531409342865,
      0.05612902031041567,
      0.9279750463957537,
      0.9908808325063301,
      0.9937966466538909,
      0.9960190678495737,
      0.9973604120178742,
      0.9982062170313639,
      0.9987283002450478,
      0.9991715784453454,
      0.9996148566456431,
      1.0
     ],
     "n": 1888,
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
      0.015001732472507167,
      0.9822828370829803,
      1.0
     ],
     "n": 830,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.00909401728245473,
      0.9925758729989927,
      1.0
     ],
     "n": 1098,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.008690724322675815,
      0.9928598488926943,
      1.0
     ],
     "n": 1630,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0053063060759171495,
      0.9944460967868834,
      1.0
     ],
     "n": 2405,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.003206535380514726,
      0.9968576870731095,
      1.0
     ],
     "n": 3272,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0026758394670656446,
      0.9972820579969387,
      1.0
     ],
     "n": 4664,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0015760570923103927,
      0.9983575750505497,
      1.0
     ],
     "n": 6608,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0013453761742864099,
      0.9984392293217467,
      1.0
     ],
     "n": 9431,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0008241550350038869,
      0.9990822294596561,
      1.0
     ],
     "n": 13153,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0004305816986856472,
      0.9994286338091654,
      1.0
     ],
     "n": 18776,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0004915346309087877,
      0.9994791019107923,
      1.0
     ],
     "n": 25825,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0002769238472100511,
      0.9996133941038547,
      1.0
     ],
     "n": 36434,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.00020436476703487372,
      0.9997607967561699,
      1.0
     ],
     "n": 50419,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      0.0001123162548205069,
      0.9998542589119794,
      1.0
     ],
     "n": 70476,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      9.476728105676331e-05,
      0.9998991296449661,
      1.0
     ],
     "n": 97599,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      7.664834371698028e-05,
      0.9999282091338619,
      1.0
     ],
     "n": 135542,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      4.2304468018982354e-05,
      0.9999445837791224,
      1.0
     ],
     "n": 181781,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      3.016049796992084e-05,
      0.9999511037246317,
      1.0
     ],
     "n": 237699,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.587213072756467e-05,
      0.9999649871804065,
      1.0
     ],
     "n": 288888,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.878318359810482e-05,
      0.999965264867391,
      1.0
     ],
     "n": 310937,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.1469529543077487e-05,
      0.9999797451800246,
      1.0
     ],
     "n": 282288,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.0472407455412782e-05,
      0.9999822245864046,
      1.0
     ],
     "n": 189278,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      7.276394259513951e-06,
      0.9999876493616203,
      1.0
     ],
     "n": 75093,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      4.78706277067741e-06,
      0.999991874645728,
      1.0
     ],
     "n": 14245,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      2.8549487666675925e-06,
      0.9999951541328642,
      1.0
     ],
     "n": 2696,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.7419049860605854e-06,
      0.9999970433654627,
      1.0
     ],
     "n": 716,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      1.044857710220148e-06,
      0.999998226503502,
      1.0
     ],
     "n": 465,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      6.288974525672857e-07,
      0.9999989325365369,
      1.0
     ],
     "n": 193,
     "values": [
      -1,
      0,
      1
     ]
    },
    {
     "cumulative": [
      3.8439359106517185e-07,
      0.999999347546866,
      1.0
     ],
     "n": 55,
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
 "version": 1
}
