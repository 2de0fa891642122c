/* Blocking sockets and threads, nothing else. `threads KIND LEAF_PORT` prints its own port. KIND is threads: one for each
 * connection; prefork: two more processes accept; forking: a process for each connection; workers: threads that accept;
 * handed: one thread polls and reads, others work; poll or epoll: one thread does it all, and starts what it is asked for
 * a little later. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int leaf, handed, polled;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int idle[256], idles;
static int ports[4], taken[4];
static const socklen_t size = sizeof(struct sockaddr_in);

struct request {
    int client, done;
    char id[32], pattern[32], text[4096];
    size_t have;
    double due;
    struct request *next;
};
static struct request *jobs;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e3 + at.tv_nsec / 1e6;
}

static void rest(int most) { usleep(rand() % most); }

static int dial(int *from) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(leaf), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr = to.sin_addr};
    int socket_ = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (from) {
        socklen_t length = size;
        own.sin_port = htons(*from);
        setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(socket_, (struct sockaddr *)&own, size) || getsockname(socket_, (struct sockaddr *)&own, &length)) perror("bind"), exit(1);
        *from = ntohs(own.sin_port);
    }
    if (connect(socket_, (struct sockaddr *)&to, size)) perror("connect"), exit(1);
    return socket_;
}

static void ask(int to, const char *path, const char *id) {
    char text[512];
    int length = snprintf(text, sizeof text, "GET %s?id=%s HTTP/1.1\r\nHost: leaf\r\n\r\n", path, id);
    if (send(to, text, length, 0) != length || recv(to, text, sizeof text, 0) <= 0) perror("ask"), exit(1);
}

static void call(const char *path, const char *id) {
    int to = dial(0);
    ask(to, path, id);
    close(to);
}

static void pooled(const char *path, const char *id) {
    pthread_mutex_lock(&lock);
    int to = idles ? idle[--idles] : -1;
    pthread_mutex_unlock(&lock);
    if (to < 0) to = dial(0);
    ask(to, path, id);
    pthread_mutex_lock(&lock);
    idle[idles++] = to;
    pthread_mutex_unlock(&lock);
}

/* From one of four ports, each free again at once. */
static void reuse(const char *id) {
    struct linger none = {1, 0};
    int slot = -1;
    pthread_mutex_lock(&lock);
    while (slot < 0) {
        for (int i = 0; i < 4 && slot < 0; i++)
            if (!taken[i]) taken[slot = i] = 1;
        if (slot < 0) pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
    int to = dial(&ports[slot]);
    ask(to, "/leaf", id);
    setsockopt(to, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(to);
    pthread_mutex_lock(&lock);
    taken[slot] = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void *elsewhere(void *id) { return call("/leaf", id), id; }

static void submit(struct request *job) {
    pthread_mutex_lock(&lock);
    job->next = jobs, jobs = job;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void work(struct request *of) {
    const char *pattern = of->pattern, *id = of->id;
    pthread_t all[3];
    if (!strcmp(pattern, "pooled")) rest(10000), pooled("/leaf", id);
    else if (!strcmp(pattern, "delayed")) rest(10000), call("/leaf", id);
    else if (!strcmp(pattern, "sequential")) for (int i = 0; i < 3; i++) pooled("/leaf", id), rest(3000);
    else if (!strcmp(pattern, "reuse")) reuse(id);
    else if (!strcmp(pattern, "fanout")) {
        for (int i = 0; i < 3; i++) pthread_create(&all[i], 0, elsewhere, (void *)id);
        for (int i = 0; i < 3; i++) pthread_join(all[i], 0);
    } else if (!strcmp(pattern, "executor")) {
        struct request job = {.client = -1};
        strcpy(job.id, id);
        submit(&job);
        pthread_mutex_lock(&lock);
        while (!job.done) pthread_cond_wait(&changed, &lock);
        pthread_mutex_unlock(&lock);
    } else call("/leaf", id);
}

static int answer(int client) { return write(client, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 40) == 40; }

/* Threads that nobody's connection is. */
static void *executor(void *unused) {
    for (;;) {
        pthread_mutex_lock(&lock);
        while (!jobs) pthread_cond_wait(&changed, &lock);
        struct request *job = jobs;
        jobs = job->next;
        pthread_mutex_unlock(&lock);
        if (job->client >= 0) {
            work(job), answer(job->client), free(job);
            continue;
        }
        call("/leaf", job->id);
        pthread_mutex_lock(&lock);
        job->done = 1;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

/* -1: the connection has ended; 1: a request has been read. */
static int read_some(struct request *of) {
    ssize_t got = read(of->client, of->text + of->have, sizeof of->text - 1 - of->have);
    if (got <= 0) return -1;
    of->text[of->have += got] = 0;
    char *end = strstr(of->text, "\r\n\r\n"), *length = strcasestr(of->text, "content-length: ");
    if (!end || (length && of->text + of->have < end + 4 + atoi(length + 16))) return 0;
    sscanf(strstr(of->text, "id="), "id=%31[0-9]", of->id);
    sscanf(strstr(of->text, "pattern="), "pattern=%31[a-z]", of->pattern);
    of->have = 0;
    return 1;
}

static void *serve(void *argument) {
    struct request request = {.client = (int)(long)argument};
    for (int got; (got = read_some(&request)) >= 0;) {
        if (!got) continue;
        work(&request);
        if (!answer(request.client)) break;
        if (!strcmp(request.pattern, "after")) rest(5000), pooled("/late", request.id);
    }
    close(request.client);
    return 0;
}

static void *background(void *unused) {
    for (;;) call("/background", "0"), usleep(5000);
    return unused;
}

static void *worker(void *listener) {
    for (;;) {
        int client = accept((int)(long)listener, 0, 0);
        if (client < 0) exit(1);
        serve((void *)(long)client);
    }
}

/* One thread for all connections. */
static void loop(int listener) {
    static struct request all[256];
    static struct pollfd waiting[256];
    int count = 1, epoll = epoll_create1(0);
    double next = now();
    waiting[0] = (struct pollfd){listener, POLLIN, 0};
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 0}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        if (polled) poll(waiting, count, 1);
        else {
            int ready = epoll_wait(epoll, events, 256, 1);
            for (int i = 0; i < count; i++) waiting[i].revents = 0;
            for (int i = 0; i < ready; i++) waiting[events[i].data.u32].revents = POLLIN;
        }
        if (!handed && now() > next) call("/background", "0"), next = now() + 5;
        for (int i = 1; i < count; i++) {
            struct request *request = &all[i];
            if (request->due && now() > request->due) work(request), answer(request->client), request->due = 0;
            if (!waiting[i].revents) continue;
            int got = read_some(request);
            if (got < 0) close(request->client), waiting[i].fd = -1;
            else if (got && handed) submit(memcpy(malloc(sizeof *request), request, sizeof *request));
            else if (got) request->due = now() + rand() % 10;
        }
        if (waiting[0].revents) {
            int i = 1;
            while (i < count && waiting[i].fd >= 0) i++;
            count += i == count;
            memset(&all[i], 0, sizeof all[i]);
            all[i].client = waiting[i].fd = accept(listener, 0, 0);
            waiting[i].events = POLLIN, waiting[i].revents = 0;
            event.data.u32 = i;
            if (!polled) epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].client, &event);
        }
    }
}

int main(int count, char **words) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = size;
    leaf = atoi(words[count - 1]);
    int forking = !strcmp(words[1], "forking"), workers = !strcmp(words[1], "workers");
    handed = !strcmp(words[1], "handed"), polled = handed || !strcmp(words[1], "poll");
    signal(SIGCHLD, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 128) || getsockname(listener, (struct sockaddr *)&at, &length)) exit(1);
    printf("%d\n", ntohs(at.sin_port)), fflush(stdout);
    for (int i = 0; i < 2 && !strcmp(words[1], "prefork"); i++)
        if (!fork()) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    pthread_t thread;
    for (int i = 0; i < 4; i++) pthread_create(&thread, 0, executor, 0);
    for (int i = 0; i < 64 && workers; i++) pthread_create(&thread, 0, worker, (void *)(long)listener);
    if (polled || !strcmp(words[1], "epoll")) loop(listener);
    pthread_create(&thread, 0, background, 0);
    if (workers) worker((void *)(long)listener);
    for (;;) {
        int client = accept(listener, 0, 0);
        if (forking && client >= 0) {
            if (!fork()) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER, changed = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
                for (int i = 0; i < 4; i++) pthread_create(&thread, 0, executor, 0);
                serve((void *)(long)client), _exit(0);
            }
            close(client);
            continue;
        }
        if (client < 0 || pthread_create(&thread, 0, serve, (void *)(long)client)) exit(1);
        pthread_detach(thread);
    }
}
