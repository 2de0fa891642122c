/* CPU microseconds of one request: read it, call out, answer it. `cost ROUNDS` prints two numbers: with a connection for
 * each call, and with one for all. The fastest round is the one that nothing else disturbed. The other ends are a child's.
 * `cost follow ROUNDS` prints its port first and waits for a line, and counts what the request's client spends, too. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char question[] = "GET /leaf HTTP/1.1\r\nHost: leaf\r\n\r\n", answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
static struct sockaddr_in here = {.sin_family = AF_INET};
static socklen_t size = sizeof here;

static clockid_t asker;
static int following;

static int listening(struct sockaddr_in *at) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    at->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)at, size) || listen(listener, 128) || getsockname(listener, (struct sockaddr *)at, &size)) exit(1);
    return listener;
}

static int dial(const struct sockaddr_in *to) {
    int dialled = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(dialled, (const struct sockaddr *)to, size)) exit(1);
    return dialled;
}

static void ask(int to) {
    char text[256];
    if (send(to, question, sizeof question - 1, 0) < 0 || recv(to, text, sizeof text, 0) <= 0) exit(1);
}

static double used(void) {
    struct timespec now;
    double sum = 0;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    sum = now.tv_sec * 1e6 + now.tv_nsec / 1e3;
    if (!following || clock_gettime(asker, &now)) return sum;
    return sum + now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

int main(int count, char **words) {
    struct sockaddr_in leaf = here, work = here;
    int leaves = listening(&leaf), works = listening(&work), rounds = atoi(words[count - 1]);
    if (!fork()) { /* The leaf: one connection at a time. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            char text[256];
            int client = accept(leaves, 0, 0);
            while (recv(client, text, sizeof text, 0) > 0) send(client, answer, sizeof answer - 1, MSG_NOSIGNAL);
            close(client);
        }
    }
    if ((following = !strcmp(words[1], "follow"))) printf("%d\n", ntohs(work.sin_port)), fflush(stdout), getchar();
    pid_t client_ = fork();
    if (!client_) { /* The client. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int client = dial(&work);;) ask(client);
    }
    int client = accept(works, 0, 0), kept = -1;
    if (clock_getcpuclockid(client_, &asker)) return 1;
    for (int pooled = 0; pooled < 2; pooled++) {
        double best = 1e9;
        if (pooled) kept = dial(&leaf);
        for (int round = 0; round < rounds; round++) {
            double before = used();
            for (int i = 0; i < 500; i++) {
                char text[256];
                if (read(client, text, sizeof text) <= 0) return 1;
                int to = pooled ? kept : dial(&leaf);
                ask(to);
                if (!pooled) close(to);
                if (write(client, answer, sizeof answer - 1) < 0) return 1;
            }
            double each = (used() - before) / 500;
            best = each < best ? each : best;
        }
        printf("%.2f\n", best);
    }
    return 0;
}
