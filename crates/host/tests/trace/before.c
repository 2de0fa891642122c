/* An object that somebody preloads: it counts connects and says so. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <sys/socket.h>

int connect(int socket_, const struct sockaddr *name, socklen_t size) {
    int (*next)(int, const struct sockaddr *, socklen_t) = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
    puts("a connect");
    return next(socket_, name, size);
}
