// A small HTTP/1.1 client over one already connected stream socket.
//
// The Engine API needs little of HTTP but some unusual parts: answers whose head must be seen long before
// their body (wait), endless chunked streams (logs, events) and connections that turn into raw byte
// streams (attach, exec). libcurl does the first two, not the third, and costs milliseconds at start.
#pragma once

#include "core/base/fd.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gantry::cli {

struct HttpRequest {
    std::string method = "GET";
    std::string target = {};
    std::vector<std::pair<std::string, std::string>> headers = {};
    std::string body = {};
    bool has_body = false; // a POST without one sends Content-Length: 0
    bool upgrade = false;  // ask for 101 and raw bytes
};

struct HttpHead {
    int status = 0;
    std::vector<std::pair<std::string, std::string>> headers; // names in lower case
    std::string_view header(std::string_view lower_name) const;
};

/// One connection. Every malformed or oversized answer is Error(kDataLoss), a lost peer
/// Error(kUnavailable). Not thread-safe.
class HttpConnection {
  public:
    static constexpr size_t kMaxHeadBytes = 64u << 10;
    static constexpr size_t kMaxBodyBytes = 256u << 20;
    static constexpr size_t kMaxLineBytes = 16u << 20;

    explicit HttpConnection(UniqueFd fd) : fd_(std::move(fd)) {}

    void send(const HttpRequest &request);
    /// Sends with a chunked body read from `source` until its end.
    void send_stream(const HttpRequest &request, int source);
    /// Reads status line and headers; 100 Continue answers are skipped.
    HttpHead read_head(bool head_request = false);
    /// Decoded body bytes; 0 at its end.
    size_t read_some(char *buffer, size_t size);
    std::string read_body(size_t limit = kMaxBodyBytes);
    /// One line of a JSON stream without its end; false at the end of the body.
    bool read_line(std::string &line);

    /// True when the body is read and the peer will take another request here.
    bool reusable() const;
    int fd() const { return fd_.get(); }
    /// True when decoded or raw bytes wait in the buffer, so that poll(2) would not tell.
    bool buffered() const { return position_ < buffer_.size(); }
    /// After 101: bytes that arrived with the head.
    std::string take_buffered();

  private:
    std::string format_head(const HttpRequest &request, bool chunked) const;
    bool fill();
    std::string read_head_line(size_t &budget);
    size_t read_raw(char *buffer, size_t size);

    enum class Body { kNone, kLength, kChunked, kUntilClose };
    UniqueFd fd_;
    std::string buffer_;
    size_t position_ = 0;
    Body body_ = Body::kNone;
    uint64_t remaining_ = 0; // of the body or of the current chunk
    bool first_chunk_ = true;
    bool keep_alive_ = true;
    std::string line_rest_;
    size_t line_scanned_ = 0;
};

/// Percent-encodes everything but unreserved characters: for path segments and query values.
std::string url_encode(std::string_view text);

} // namespace gantry::cli
