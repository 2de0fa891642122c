/* Every call that the preload object stands before, in ways that fail and that succeed: results and errno are printed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAY(call) do { errno = 4242; long result_ = (long)(call); printf("%s: %ld %d\n", #call, result_, errno); } while (0)

static char text[8192];
static struct iovec parts[2] = {{text, 3}, {text + 3, 5}};
static struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
static struct mmsghdr messages[1];

static void *stuck(void *socket_) {
    pthread_cleanup_push(free, malloc(16));
    for (;;) recv(*(int *)socket_, text, 1, 0);
    pthread_cleanup_pop(1);
    return 0;
}

static void ignore(int signal) { (void)signal; }

int main(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in nobody = at, peer;
    socklen_t size = sizeof at;
    struct pollfd polled[2] = {{0, POLLIN, 0}, {0, POLLIN, 0}};
    struct timeval moment = {0, 1000};
    struct timespec tick = {0, 1000000};
    struct epoll_event event = {.events = EPOLLIN};
    fd_set set;
    int status;

    messages[0].msg_hdr = message;
    nobody.sin_port = htons(1);
    SAY(read(-1, text, 8)); SAY(write(-1, text, 8)); SAY(close(-1)); SAY(close(100000)); SAY(accept(-1, 0, 0));
    SAY(recv(-1, text, 8, 0)); SAY(send(-1, text, 8, 0)); SAY(readv(-1, parts, 2)); SAY(writev(-1, parts, 2));
    SAY(sendmsg(-1, &message, 0)); SAY(recvmsg(-1, &message, 0)); SAY(sendmmsg(-1, messages, 1, 0));
    SAY(sendfile(-1, -1, 0, 1)); SAY(dup2(-1, 5)); SAY(dup3(1, 1, 0)); SAY(listen(-1, 1)); SAY(epoll_ctl(-1, EPOLL_CTL_ADD, 0, &event));
    SAY(read(0, (void *)1, 0)); SAY(write(1, 0, 0)); SAY(poll(0, 0, 1)); SAY(ppoll(0, 0, &tick, 0));
    SAY(select(0, 0, 0, 0, &moment)); SAY(pselect(0, 0, 0, 0, &tick, 0)); SAY(select(-1, 0, 0, 0, &moment));
    SAY(connect(0, (struct sockaddr *)&at, size));

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SAY(bind(listener, (struct sockaddr *)&at, size)); SAY(listen(listener, 8));
    getsockname(listener, (struct sockaddr *)&at, &size);
    SAY(accept4(listener, 0, 0, SOCK_CLOEXEC));
    int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), other = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connect(other, (struct sockaddr *)&nobody, size));
    close(other);
    SAY(connect(client, (struct sockaddr *)&at, size));
    polled[0].fd = listener; polled[1].fd = client;
    SAY(poll(polled, 1, 5000));
    int server = accept4(listener, (struct sockaddr *)&peer, &size, 0);
    printf("accepted %d %d %d\n", server, size, peer.sin_family);
    SAY(connect(client, (struct sockaddr *)&at, size)); SAY(connect(client, (struct sockaddr *)&at, size));
    SAY(recv(client, text, 8, 0)); SAY(send(client, "GET /", 5, 0)); SAY(recv(server, text, 3, MSG_PEEK));
    SAY(read(server, text, 8192)); SAY(writev(client, parts, 2)); SAY(readv(server, parts, 2));
    SAY(sendmsg(client, &message, 0)); SAY(recvmsg(server, &message, 0));
    SAY(sendmmsg(client, messages, 1, 0)); SAY(recvfrom(server, text, 8192, 0, 0, 0));
    SAY(sendto(client, text, 7, 0, 0, 0)); SAY(read(server, text, 8192)); SAY(write(server, "answer", 6));
    int file = open("/etc/hostname", O_RDONLY);
    SAY(sendfile(client, file, 0, 3)); SAY(recv(server, text, 3, MSG_WAITALL));
    polled[0].fd = server;
    SAY(poll(polled, 2, 0)); SAY(ppoll(polled, 2, &tick, 0));
    FD_ZERO(&set);
    FD_SET(server, &set);
    FD_SET(client, &set);
    SAY(select(client + 10, &set, 0, 0, &moment));
    int epoll = epoll_create1(0);
    SAY(epoll_ctl(epoll, EPOLL_CTL_ADD, server, &event)); SAY(epoll_ctl(epoll, EPOLL_CTL_ADD, server, &event));

    /* Copies: neither a forked child nor one that has its parent's memory ends anything. */
    if (!fork()) close(client), close(server), _exit(send(client, text, 1, 0) == -1 && errno == EBADF);
    wait(&status);
    printf("child %d\n", status);
    pid_t child = vfork();
    if (!child) close(client), close(server), execl("/bin/true", "true", NULL), _exit(1);
    waitpid(child, &status, 0);
    printf("vforked %d\n", status);
    SAY(send(client, "GET /", 5, 0)); SAY(read(server, text, 5));
    int copy = dup(client);
    SAY(dup2(file, client)); SAY(read(client, text, 0)); SAY(send(copy, "x", 1, 0));
    FILE *stream = fdopen(copy, "w");
    SAY(fputs("through a buffer", stream)); SAY(fclose(stream)); SAY(send(copy, "x", 1, 0));

    /* Interrupted, and cancelled. */
    struct sigaction action = {.sa_handler = ignore};
    sigaction(SIGALRM, &action, 0);
    int pair[2], lonely = socket(AF_INET, SOCK_DGRAM, 0);
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    ualarm(20000, 0);
    SAY(recv(pair[0], text, 8, 0));
    SAY(connect(lonely, (struct sockaddr *)&nobody, size));
    pthread_t thread;
    void *result;
    pthread_create(&thread, 0, stuck, &pair[1]);
    usleep(20000);
    pthread_cancel(thread);
    SAY(pthread_join(thread, &result));
    printf("cancelled %d\n", result == PTHREAD_CANCELED);
    return 0;
}
