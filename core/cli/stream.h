// The interactive part of run, attach and exec: one poll loop between terminal, container and signals.
#pragma once

#include "core/cli/http_client.h"

#include <csignal>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace gantry::cli {

/// Puts the terminal of `fd` into raw mode and back, also when the process ends by an exception.
class RawTerminal {
  public:
    explicit RawTerminal(int fd);
    ~RawTerminal();
    RawTerminal(const RawTerminal &) = delete;
    RawTerminal &operator=(const RawTerminal &) = delete;

  private:
    int fd_;
    bool active_ = false;
};

/// Rows and columns of the terminal; 0, 0 when there is none.
std::pair<unsigned, unsigned> terminal_size(int fd);

/// Finds the detach key sequence in what the user types. Keys that turned out not to be the sequence are
/// passed on.
class DetachFilter {
  public:
    /// "ctrl-p,ctrl-q"; "" turns it off. Throws FlagError.
    explicit DetachFilter(const std::string &keys);
    /// What to send on; `detached` becomes true when the sequence is complete.
    std::string feed(std::string_view typed, bool &detached);

  private:
    std::string keys_;
    size_t matched_ = 0;
};

/// Splits the 8-byte framed stream of a container without a terminal. Throws Error for a bad frame.
class Demultiplexer {
  public:
    using Sink = std::function<void(int stream, std::string_view bytes)>; // 1 stdout, 2 stderr
    explicit Demultiplexer(Sink sink) : sink_(std::move(sink)) {}
    void feed(std::string_view bytes);

  private:
    Sink sink_;
    unsigned char header_[8] = {};
    size_t header_size_ = 0;
    uint32_t remaining_ = 0;
};

/// Blocks the signals that a stream session handles; must live before the container starts, so that a
/// signal right after start is not lost. One per process.
class SignalReader {
  public:
    /// `proxy`: all signals that can be passed on; else only SIGWINCH.
    explicit SignalReader(bool proxy);
    ~SignalReader();
    int fd() const { return fd_.get(); }
    int next(); // 0: none pending

  private:
    UniqueFd fd_;
    sigset_t old_mask_;
};

/// Name without SIG, as the kill call takes it.
std::string signal_name(int signal);

struct StreamSession {
    HttpConnection *connection = nullptr; // hijacked
    HttpConnection *wait = nullptr;       // its body is awaited too
    SignalReader *signals = nullptr;
    bool tty = false;
    bool send_stdin = false;
    bool print_stdout = true, print_stderr = true;
    std::string detach_keys = "ctrl-p,ctrl-q";
    std::function<bool(unsigned rows, unsigned columns)> resize; // false: try again
    std::function<void(int signal)> forward;
    /// Set when wait's body may be awaited at all; false result of run() leaves it unread.
};
enum class StreamEnd { kFinished, kDetached };
/// Runs until the container's output has ended and `wait` has its answer, or the user detaches.
StreamEnd run_stream(StreamSession &session);

} // namespace gantry::cli
