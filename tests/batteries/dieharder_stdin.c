/* dieharder reads its 57 billion words a battery with one fread each, which locks and looks about for
   longer than most tests think about a word. Preloaded by dieharder.sh, this answers exactly those reads
   from a buffer; the words are the same, and every other fread is the C library's.

     gcc -O2 -shared -fPIC dieharder_stdin.c -o dieharder_stdin.so -ldl
     LD_PRELOAD=./dieharder_stdin.so dieharder -d 0 -g 200 < stream */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { word = 4 };
static unsigned char buffer[1 << 18];
static size_t position, filled;

static int refill(void) { /* a pipe may give part of a word: what is left of one stays in front */
  filled -= position;
  memmove(buffer, buffer + position, filled);
  position = 0;
  while (filled < word) {
    ssize_t got = read(STDIN_FILENO, buffer + filled, sizeof buffer - filled);
    if (got <= 0) return 0; /* dieharder says itself that its input ended */
    filled += (size_t)got;
  }
  return 1;
}

size_t fread(void *target, size_t size, size_t count, FILE *file) {
  static size_t (*library)(void *, size_t, size_t, FILE *);
  if (file == stdin && size * count == word) {
    if (filled - position < word && !refill()) return 0;
    memcpy(target, buffer + position, word);
    position += word;
    return count;
  }
  if (library == NULL) *(void **)&library = dlsym(RTLD_NEXT, "fread");
  return library(target, size, count, file);
}
