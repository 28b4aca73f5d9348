// --init: process 1 of the container when the program was not written to be one. It passes signals on,
// reaps what is orphaned, and ends with the program's status. Signals are blocked, not handled: a blocked
// signal reaches process 1 even with the default disposition, which the kernel would else drop.
#include "core/runtime/shim/shim.h"

#include <initializer_list>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

namespace gantry::shim {

void run_init(pid_t child) {
    sigset_t all;
    sigfillset(&all);
    for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS})
        sigdelset(&all, signal);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    prctl(PR_SET_NAME, "init");
    for (int fd = 0; fd < 3; fd++)
        close(fd); // or a pipe's reader would never see its end
    for (;;) {
        int status;
        pid_t pid;
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
            if (pid == child) _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
        siginfo_t info;
        int signal = sigwaitinfo(&all, &info);
        if (signal <= 0 || signal == SIGCHLD || signal == SIGTTIN || signal == SIGTTOU) continue;
        if (kill(child, signal) != 0 && errno == ESRCH) continue;
    }
}

void init_main(char **command) {
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    pid_t pid = fork();
    if (pid == 0) {
        // In the foreground of the terminal, if there is one: signals of its keys go to the program.
        setpgid(0, 0);
        tcsetpgrp(0, getpid());
        sigprocmask(SIG_SETMASK, &none, nullptr);
        execvp(command[0], command);
        int error = errno;
        Text text;
        text.add("exec: \"").add(command[0]).add("\": ");
        add_error(text, error);
        text.add("\n");
        if (write(2, text.c(), text.size) < 0) _exit(126);
        _exit(error == ENOENT ? 127 : 126);
    }
    if (pid < 0) _exit(126);
    run_init(pid);
}

} // namespace gantry::shim
