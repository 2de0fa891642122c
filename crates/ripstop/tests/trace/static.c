/* A thread for each connection, which calls `leaf` for every request. Linked statically: nothing can be put into it. */
#define _GNU_SOURCE
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *name;

static int dial(void) {
    struct addrinfo want = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo("leaf", "80", &want, &found)) return -1;
    int to = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(to, found->ai_addr, found->ai_addrlen)) close(to), to = -1;
    freeaddrinfo(found);
    return to;
}

static void call(const char *id) {
    char text[1024];
    int to = dial();
    if (to < 0) return;
    int length = snprintf(text, sizeof text, "GET /?id=%s&by=%s HTTP/1.1\r\nHost: leaf\r\n\r\n", id, name);
    if (write(to, text, length) == length && read(to, text, sizeof text) > 0) close(to);
}

static void *serve(void *argument) {
    int client = (int)(long)argument;
    char text[8192], id[32];
    size_t have = 0;
    for (;;) {
        ssize_t got = read(client, text + have, sizeof text - 1 - have);
        if (got <= 0) break;
        text[have += got] = 0;
        if (!strstr(text, "\r\n\r\n")) continue;
        have = 0;
        char *at = strstr(text, "id=");
        if (at && sscanf(at, "id=%31[0-9]", id) == 1) call(id);
        const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        if (write(client, answer, sizeof answer - 1) < 0) break;
    }
    close(client);
    return 0;
}

int main(int count, char **words) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(8080)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    pthread_t thread;
    name = words[count - 1];
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 64)) return 1;
    for (;;) {
        int client = accept(listener, 0, 0);
        if (client < 0 || pthread_create(&thread, 0, serve, (void *)(long)client)) return 1;
        pthread_detach(thread);
    }
}
