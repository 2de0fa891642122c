/* A thread per connection, blocking sockets, nothing else. `threads KIND LEAF_PORT` prints its own port. KIND is threads;
 * prefork: two more processes accept; or forking: a process for each connection. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int leaf;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int idle[256], idles;

static int dial(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(leaf), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int socket_ = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(socket_, (struct sockaddr *)&to, sizeof to)) perror("connect"), exit(1);
    return socket_;
}

static void ask(int to, const char *path, const char *id) {
    char text[512];
    int length = snprintf(text, sizeof text, "GET %s?id=%s HTTP/1.1\r\nHost: leaf\r\n\r\n", path, id);
    if (send(to, text, length, 0) != length || recv(to, text, sizeof text, 0) <= 0) perror("ask"), exit(1);
}

static void call(const char *path, const char *id) {
    int to = dial();
    ask(to, path, id);
    close(to);
}

static void pooled(const char *path, const char *id) {
    pthread_mutex_lock(&lock);
    int to = idles ? idle[--idles] : -1;
    pthread_mutex_unlock(&lock);
    if (to < 0) to = dial();
    ask(to, path, id);
    pthread_mutex_lock(&lock);
    idle[idles++] = to;
    pthread_mutex_unlock(&lock);
}

static void *serve(void *argument) {
    int client = (int)(long)argument;
    char text[4096], id[32], pattern[32];
    size_t have = 0;
    for (;;) {
        ssize_t got = read(client, text + have, sizeof text - 1 - have);
        if (got <= 0) break;
        text[have += got] = 0;
        char *end = strstr(text, "\r\n\r\n"), *length = strcasestr(text, "content-length: ");
        if (!end || (length && text + have < end + 4 + atoi(length + 16))) continue;
        sscanf(strstr(text, "id="), "id=%31[0-9]", id);
        sscanf(strstr(text, "pattern="), "pattern=%31[a-z]", pattern);
        if (!strcmp(pattern, "pooled")) usleep(rand() % 10000), pooled("/leaf", id);
        else if (!strcmp(pattern, "sequential")) for (int i = 0; i < 3; i++) pooled("/leaf", id), usleep(rand() % 3000);
        else call("/leaf", id);
        if (write(client, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 40) != 40) break;
        if (!strcmp(pattern, "after")) usleep(rand() % 5000), pooled("/late", id);
        have = 0;
    }
    close(client);
    return 0;
}

static void *background(void *unused) {
    for (;;) call("/background", "0"), usleep(5000);
    return unused;
}

int main(int count, char **words) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    leaf = atoi(words[count - 1]);
    int forking = !strcmp(words[1], "forking");
    signal(SIGCHLD, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 128) || getsockname(listener, (struct sockaddr *)&at, &size)) exit(1);
    printf("%d\n", ntohs(at.sin_port)), fflush(stdout);
    for (int i = 0; i < 2 && !strcmp(words[1], "prefork"); i++)
        if (!fork()) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    pthread_t thread;
    pthread_create(&thread, 0, background, 0);
    for (;;) {
        int client = accept(listener, 0, 0);
        if (forking && client >= 0) {
            if (!fork()) prctl(PR_SET_PDEATHSIG, SIGKILL), serve((void *)(long)client), _exit(0);
            close(client);
            continue;
        }
        if (client < 0 || pthread_create(&thread, 0, serve, (void *)(long)client)) exit(1);
        pthread_detach(thread);
    }
}
