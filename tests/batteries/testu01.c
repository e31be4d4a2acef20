/* TestU01's batteries on a stream of 32-bit words from stdin.

     gcc -O3 tests/batteries/testu01.c -o testu01 -ltestu01 -lprobdist -lmylib -lm
     hetero-noise random --order tiles --seed 1 | ./testu01 crush
     hetero-noise random --order tiles --seed 1 | ./testu01 crush --reversed

   Batteries: small (seconds), crush and big (much longer). The batteries look at the high bits
   of a word more than at the low ones, so each is to be run with the bits of each word reversed too.
   Exit status 2 for a wrong call, 3 if the stream ends before the battery. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bbattery.h"
#include "swrite.h"
#include "unif01.h"

static uint32_t words[1 << 16];
static size_t filled, position;

static unsigned int next_word(void) {
  if (position == filled) {
    position = 0;
    filled = fread(words, sizeof words[0], sizeof words / sizeof words[0], stdin);
    if (filled == 0) {
      fputs("testu01: the stream ended before the battery; leave --bytes away\n", stderr);
      exit(3);
    }
  }
  return words[position++];
}

static unsigned int next_reversed(void) {
  uint32_t word = next_word();
  word = (word & 0x55555555u) << 1 | (word >> 1 & 0x55555555u);
  word = (word & 0x33333333u) << 2 | (word >> 2 & 0x33333333u);
  word = (word & 0x0f0f0f0fu) << 4 | (word >> 4 & 0x0f0f0f0fu);
  return __builtin_bswap32(word);
}

int main(int count, char **arguments) {
  const char *battery = count > 1 ? arguments[1] : "";
  int reversed = count > 2 && strcmp(arguments[2], "--reversed") == 0;
  void (*run)(unif01_Gen *) = strcmp(battery, "small") == 0   ? bbattery_SmallCrush
                              : strcmp(battery, "crush") == 0 ? bbattery_Crush
                              : strcmp(battery, "big") == 0   ? bbattery_BigCrush
                                                              : NULL;
  if (run == NULL || count > 2 + reversed) {
    fputs("usage: testu01 small|crush|big [--reversed] < stream\n", stderr);
    return 2;
  }
  swrite_Basic = 0; /* the summary alone */
  run(unif01_CreateExternGenBits(reversed ? "stdin, bits reversed" : "stdin",
                                 reversed ? next_reversed : next_word));
  return 0;
}
