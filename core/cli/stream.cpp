// One thread, poll(2) and non-blocking writes to the container: a container that does not read its stdin
// must not stop us from reading its output, or both sides would wait for each other. Stdin is read only
// while nothing waits to be sent, which gives back-pressure. The end of stdin is shutdown(SHUT_WR).
#include "core/cli/stream.h"

#include "core/cli/flags.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cstring>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

namespace gantry::cli {
namespace {

termios saved_terminal;
int saved_fd = -1;

void restore_terminal() {
    if (saved_fd >= 0) tcsetattr(saved_fd, TCSADRAIN, &saved_terminal);
    saved_fd = -1;
}

} // namespace

RawTerminal::RawTerminal(int fd) : fd_(fd) {
    if (!isatty(fd) || tcgetattr(fd, &saved_terminal) < 0) return;
    saved_fd = fd;
    active_ = true;
    static bool registered = false;
    if (!registered) atexit(restore_terminal);
    registered = true;
    termios raw = saved_terminal;
    cfmakeraw(&raw);
    tcsetattr(fd_, TCSADRAIN, &raw);
}

RawTerminal::~RawTerminal() {
    if (active_) restore_terminal();
}

std::pair<unsigned, unsigned> terminal_size(int fd) {
    winsize size{};
    if (ioctl(fd, TIOCGWINSZ, &size) < 0) return {0, 0};
    return {size.ws_row, size.ws_col};
}

DetachFilter::DetachFilter(const std::string &keys) {
    for (size_t at = 0; at < keys.size();) {
        size_t end = std::min(keys.find(',', at), keys.size());
        std::string key = keys.substr(at, end - at);
        at = end + 1;
        if (key.size() == 1) {
            keys_ += key;
        } else if (key.starts_with("ctrl-") && key.size() == 6) {
            char c = key[5];
            if (c >= 'a' && c <= 'z')
                keys_ += static_cast<char>(c - 'a' + 1);
            else if (const char *found = c ? strchr("@[\\]^_", c) : nullptr)
                keys_ += c == '@' ? '\0' : static_cast<char>(26 + (found - strchr("@[\\]^_", '@')));
            else
                throw FlagError{"Unknown character: '" + key + "' in detach keys"};
        } else {
            throw FlagError{"Unknown character: '" + key + "' in detach keys"};
        }
    }
}

std::string DetachFilter::feed(std::string_view typed, bool &detached) {
    std::string result;
    for (char c : typed) {
        if (detached) break;
        if (!keys_.empty() && c == keys_[matched_]) {
            if (++matched_ == keys_.size()) detached = true;
            continue;
        }
        result.append(keys_, 0, matched_);
        matched_ = 0;
        if (!keys_.empty() && c == keys_[0]) {
            matched_ = 1;
            if (keys_.size() == 1) detached = true;
        } else {
            result += c;
        }
    }
    return result;
}

void Demultiplexer::feed(std::string_view bytes) {
    while (!bytes.empty()) {
        if (remaining_ > 0) {
            size_t count = std::min<size_t>(remaining_, bytes.size());
            sink_(header_[0], bytes.substr(0, count));
            bytes.remove_prefix(count);
            remaining_ -= static_cast<uint32_t>(count);
            continue;
        }
        header_[header_size_++] = static_cast<unsigned char>(bytes[0]);
        bytes.remove_prefix(1);
        if (header_size_ < 8) continue;
        header_size_ = 0;
        if (header_[0] > 3)
            throw Error(ErrorClass::kDataLoss,
                        "read output of the container: unrecognized stream " + std::to_string(header_[0]));
        remaining_ =
            uint32_t{header_[4]} << 24 | uint32_t{header_[5]} << 16 | uint32_t{header_[6]} << 8 | header_[7];
    }
}

SignalReader::SignalReader(bool proxy) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGWINCH);
    if (proxy) {
        sigfillset(&set);
        // Faults are ours alone; CHLD and URG are noise; TSTP, TTIN, TTOU and CONT are job control.
        for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGCHLD, SIGURG,
                           SIGPIPE, SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT})
            sigdelset(&set, signal);
    }
    sigprocmask(SIG_BLOCK, &set, &old_mask_);
    fd_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd_) throw Error::from_errno(errno, "create signalfd");
}

SignalReader::~SignalReader() { sigprocmask(SIG_SETMASK, &old_mask_, nullptr); }

int SignalReader::next() {
    signalfd_siginfo info{};
    return ::read(fd_.get(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
}

std::string signal_name(int signal) {
    const char *name = sigabbrev_np(signal);
    return name ? name : std::to_string(signal);
}

namespace {

class StreamLoop {
  public:
    explicit StreamLoop(StreamSession &session)
        : session_(session), socket_(session.connection ? session.connection->fd() : -1),
          filter_(session.tty ? session.detach_keys : ""),
          demultiplexer_([this](int stream, std::string_view bytes) { print(stream == 2 ? 2 : 1, bytes); }) {}

    StreamEnd run() {
        output_open_ = socket_ >= 0;
        stdin_open_ = session_.send_stdin && output_open_;
        resize_due_ = session_.tty && static_cast<bool>(session_.resize);
        if (output_open_) {
            std::string early = session_.connection->take_buffered();
            if (!early.empty()) receive(early);
        }
        while (output_open_ || wait_open()) {
            if (resize_due_) try_resize();
            pollfd polls[5] = {{stdin_open_ && pending_.empty() ? 0 : -1, POLLIN, 0},
                               {output_open_ ? socket_ : -1, POLLIN, 0},
                               {!pending_.empty() && output_open_ ? socket_ : -1, POLLOUT, 0},
                               {session_.signals ? session_.signals->fd() : -1, POLLIN, 0},
                               {wait_open() ? session_.wait->fd() : -1, POLLIN, 0}};
            int ready = ::poll(polls, 5, resize_due_ ? 20 : -1);
            if (ready < 0 && errno != EINTR) throw Error::from_errno(errno, "wait for the container");
            if (ready <= 0) continue;
            if (polls[3].revents) handle_signals();
            if (polls[1].revents) read_socket();
            if (polls[2].revents && output_open_) flush();
            if (polls[0].revents && read_stdin()) return StreamEnd::kDetached;
            // The answer of wait may overtake the last output: output goes on until its own end.
            if (polls[4].revents) wait_ready_ = true;
        }
        return StreamEnd::kFinished;
    }

  private:
    bool wait_open() const { return session_.wait && !wait_ready_ && !session_.wait->buffered(); }

    void try_resize() {
        auto [rows, columns] = terminal_size(0);
        if (rows == 0 || columns == 0) {
            resize_due_ = false;
            return;
        }
        // The process may not have its terminal yet right after start.
        resize_due_ = !session_.resize(rows, columns) && ++resize_tries_ < 10;
    }

    void handle_signals() {
        while (int signal = session_.signals->next()) {
            if (signal == SIGWINCH) {
                resize_tries_ = 0;
                resize_due_ = session_.tty && static_cast<bool>(session_.resize);
            } else if (session_.forward) {
                session_.forward(signal);
            }
        }
    }

    void print(int fd, std::string_view bytes) {
        if (fd == 1 ? !session_.print_stdout : !session_.print_stderr) return;
        write_all(fd, bytes, fd == 1 ? "standard output" : "standard error");
    }

    void receive(std::string_view bytes) {
        if (session_.tty)
            print(1, bytes);
        else
            demultiplexer_.feed(bytes);
    }

    void read_socket() {
        char buffer[32u << 10];
        ssize_t count = ::recv(socket_, buffer, sizeof buffer, MSG_DONTWAIT);
        if (count > 0) return receive({buffer, static_cast<size_t>(count)});
        if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
        output_open_ = stdin_open_ = false; // a reset is an end too: the exit code tells the rest
        pending_.clear();
    }

    void flush() {
        ssize_t sent = ::send(socket_, pending_.data(), pending_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) pending_.erase(0, static_cast<size_t>(sent));
        if (sent < 0 && errno != EAGAIN && errno != EINTR) { // the container closed its stdin
            pending_.clear();
            stdin_open_ = false;
        }
        if (pending_.empty() && stdin_ended_) {
            ::shutdown(socket_, SHUT_WR);
            stdin_ended_ = false;
        }
    }

    bool read_stdin() {
        char buffer[32u << 10];
        ssize_t count = ::read(0, buffer, sizeof buffer);
        if (count < 0 && (errno == EINTR || errno == EAGAIN)) return false;
        if (count <= 0) {
            stdin_open_ = false;
            stdin_ended_ = true;
            flush();
            return false;
        }
        bool detached = false;
        std::string_view typed(buffer, static_cast<size_t>(count));
        pending_ += session_.tty ? filter_.feed(typed, detached) : std::string(typed);
        if (!pending_.empty()) flush();
        return detached;
    }

    StreamSession &session_;
    int socket_;
    DetachFilter filter_;
    Demultiplexer demultiplexer_;
    std::string pending_;
    bool output_open_ = false, stdin_open_ = false, stdin_ended_ = false, wait_ready_ = false,
         resize_due_ = false;
    int resize_tries_ = 0;
};

} // namespace

StreamEnd run_stream(StreamSession &session) { return StreamLoop(session).run(); }

} // namespace gantry::cli
