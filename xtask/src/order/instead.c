/* Preloaded into `ripstop up`: a sidecar starts below callgrind, which writes which functions it runs to $CALLS. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int execvp(const char *file, char *const arguments[])
{
    int (*next)(const char *, char *const *) = (int (*)(const char *, char *const *))dlsym(RTLD_NEXT, "execvp");
    const char *folder = getenv("CALLS"), *program = getenv("PROGRAM");
    char *below[32] = {"valgrind", "--tool=callgrind", "--demangle=no", "-q"}, out[4096];
    int count = 0, sidecar = 0, at = 4;
    for (; arguments[count]; count++)
        sidecar |= !strcmp(arguments[count], "--sidecar");
    if (!sidecar || !folder || !program || count > 24)
        return next(file, arguments);
    snprintf(out, sizeof out, "--callgrind-out-file=%s/%%p", folder);
    below[at++] = out;
    below[at++] = (char *)program;
    for (int i = 1; i < count; i++)
        below[at++] = arguments[i];
    unsetenv("LD_PRELOAD");
    return next("valgrind", below);
}
