// HTTP/1.1 on one blocking socket. Beast judges the head; this layer never reads a byte beyond the
// request it is serving (MSG_PEEK), because a hijacked connection goes to another process as a bare
// descriptor and whatever the client sent after the head must still be in the kernel's buffer.
#pragma once

#include "core/base/cancel.h"
#include "core/base/fd.h"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gantry::api {

struct HttpLimits {
    size_t header_bytes = 64u << 10;
    size_t json_bytes = 8u << 20;
    int header_timeout_ms = 30'000;
    int idle_timeout_ms = 300'000; // between requests of a kept connection
    int body_timeout_ms = 300'000; // of a streamed body, without a single byte
    int json_timeout_ms = 60'000;  // for a whole body that is read into memory
    // An answer of which the client takes no byte. Streams are more patient: people pause `logs | less`.
    int send_timeout_ms = 30'000, stream_timeout_ms = 900'000;
    int stop_timeout_ms = 2'000; // the same once the server stops
};

/// A request that cannot be served as HTTP; carries the status to answer before closing.
struct HttpError {
    int status;
    std::string message;
};

using Query = std::map<std::string, std::vector<std::string>>;
Query parse_query(std::string_view text);
/// Percent decoding; '+' stands for a space only in a query. Bad escapes stay as they are.
std::string percent_decode(std::string_view text, bool plus_is_space);

class Connection;

/// One request. The body is pulled; nothing of it is read before a handler asks.
class Request {
  public:
    std::string method, target; // as sent
    std::string path;           // raw path without query, version prefix removed by the router
    Query query;
    std::map<std::string, std::string> headers; // names in lower case
    std::vector<std::string> params;            // captured by the route, decoded
    int api_minor = 47;                         // 1.N
    bool keep_alive = true, http10 = false;

    /// Last value, or "".
    const std::string &arg(const std::string &name) const;
    bool has(const std::string &name) const { return query.count(name) != 0; }
    bool flag(const std::string &name, bool fallback = false) const; // see dialect.h
    const std::string &header(const std::string &lower_name) const;
    bool wants_upgrade() const;

    /// Up to `size` bytes of the body, 0 at its end. Throws HttpError on a broken transfer.
    size_t read_body(void *data, size_t size);
    /// The whole body; more than `limit` is HttpError 413.
    std::string body_text(size_t limit);
    std::string body_json(); // limits.json_bytes
    bool body_done() const noexcept { return body_ended_; }

  private:
    friend class Connection;
    Connection *connection_ = nullptr;
    bool chunked_ = false, body_ended_ = true, expect_continue_ = false, first_chunk_ = true;
    uint64_t left_ = 0;    // of the body, or of the present chunk
    int64_t deadline_ = 0; // monotonic ms for the rest of the body; 0: only each wait is limited
};

class Response {
  public:
    Response(Connection &connection, const Request &request) : connection_(connection), request_(request) {}

    void header(std::string name, std::string value);
    /// One complete answer. HEAD and 204/304 get no body.
    void send(int status, std::string_view body, std::string_view content_type);
    void json(int status, std::string_view body) { send(status, body, "application/json"); }
    void empty(int status) { send(status, {}, {}); }
    void error(int status, const std::string &message);

    /// Head at once, then chunks; an HTTP/1.0 client gets the bytes until close.
    void begin(int status, std::string_view content_type);
    void write(std::string_view bytes); // throws Error(kUnavailable) when the client is gone
    /// Like write(), but never waits: what the client does not take at once is kept for the next call.
    void offer(std::string_view bytes);
    size_t backlog() const noexcept { return backlog_.size(); }
    void end();

    /// The raw-stream head (101 UPGRADED when asked for, else 200), then the descriptor itself: the
    /// caller owns the connection from here on.
    UniqueFd hijack(std::string_view content_type);

    bool started() const noexcept { return started_; }
    bool streaming() const noexcept { return streaming_; }
    bool ended() const noexcept { return ended_; }
    int status() const noexcept { return status_; }
    /// Common headers (Api-Version, Server, ...), set by the router.
    std::vector<std::pair<std::string, std::string>> common;

  private:
    std::string head(int status, std::string_view content_type) const;
    std::string framed(std::string_view bytes) const;
    Connection &connection_;
    const Request &request_;
    std::vector<std::pair<std::string, std::string>> headers_;
    std::string backlog_; // of offer()
    bool started_ = false, streaming_ = false, ended_ = false;
    int status_ = 0;
};

/// Owns the socket. Used by one thread.
class Connection {
  public:
    Connection(UniqueFd fd, const HttpLimits &limits, const CancelSource *stop);

    /// False: the client closed, idled too long, or the server stops. Throws HttpError.
    bool next(Request &request);
    /// After the answer: skips what the client still sends of its body; false: must be closed.
    bool finish(Request &request);
    /// Throws Error(kUnavailable) when the client is gone or takes nothing for `timeout_ms`.
    void send_all(std::string_view bytes, int timeout_ms);
    /// Sends what fits into the socket's buffer now; returns how much that was.
    size_t send_some(std::string_view bytes);
    UniqueFd release() { return std::move(fd_); }
    int fd() const noexcept { return fd_.get(); }
    bool hijacked() const noexcept { return !fd_; }
    const HttpLimits &limits() const noexcept { return limits_; }
    const CancelSource *stop() const noexcept { return stop_; }

  private:
    friend class Request;
    enum class Ready { kData, kTimeout, kStop };
    Ready wait_readable(int timeout_ms, bool heed_stop);
    /// At the time given; a request that reads into memory has one deadline for its whole body.
    int body_patience(const Request &request) const;
    /// Reads up to and including `delimiter`, byte-exact. False at end of file with nothing read.
    bool read_until(std::string_view delimiter, size_t limit, int timeout_ms, std::string &out,
                    int too_long = 431);
    size_t receive(void *data, size_t size);

    UniqueFd fd_;
    HttpLimits limits_;
    const CancelSource *stop_;
};

/// Cancels `cancel` when the peer has closed its end or the server stops. A half-closed unix socket
/// (RDHUP alone) is a client that merely has nothing more to say, so only POLLHUP and POLLERR count.
class HangupWatch {
  public:
    HangupWatch(const Connection &connection, CancelSource &cancel);
    ~HangupWatch();
    HangupWatch(const HangupWatch &) = delete;

  private:
    struct Shared;
    Shared *shared_;
};
/// Blocks until `wake_fd` is readable (true), or the peer closed, the server stops (false). -1: no
/// time-out; a time-out also returns true with `timed_out` set.
bool wait_for(const Connection &connection, int wake_fd, int timeout_ms, bool &timed_out);

} // namespace gantry::api
