// HTTP over libcurl for one purpose: bounded requests and uploads that obey cancellation at once.
#pragma once

#include "proxy.h"

#include <gantry/call.hpp>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace gantry::oci {

struct TlsSettings {
    std::string ca_file, client_cert, client_key; // PEM files
    std::string ca_pem;                           // more authorities
    bool skip_verify = false;
};

struct HttpResponse {
    long status = 0;
    std::vector<std::pair<std::string, std::string>> headers; // names in lower case
    std::string body;                                         // what no sink took
    std::string url;                                          // who answered in the end, after redirects
    int64_t first_byte_ns = 0; // from the request (the last one) to the first byte of its answer

    /// First header of that (lower-case) name or "".
    std::string header(std::string_view name) const;
    bool ok() const noexcept { return status >= 200 && status < 300; }
};

/// What a request carries; read again from the start when it has to be sent again.
struct HttpBody {
    /// Fills the buffer from an offset of the body; returns the bytes given, 0 is a failure. May throw.
    std::function<size_t(uint64_t at, void *data, size_t size)> read;
    uint64_t size = 0;
};

struct HttpRequest {
    std::string method; // "" GET, or POST of a form
    std::string url;
    std::vector<std::string> headers;
    std::string authorization; // value of the header; dropped on a redirect to another origin
    std::string form;          // not empty: POST application/x-www-form-urlencoded
    HttpBody body;             // with PUT, POST and PATCH
    size_t max_body = 64 << 10;
    int64_t patience_ns = 0; // longest silence when that is more than the client's stall time-out
    TlsSettings tls;
    ProxySettings proxy;
    int64_t timeout_ns = 0; // of each request as a whole; 0: as long as bytes come
    /// Asked at least once a second while the transfer runs; false ends it as complete. May throw.
    std::function<bool()> go_on;
    /// Takes the body of 200 and 206 answers; false ends the transfer as complete. May throw.
    std::function<bool(const HttpResponse &head, const void *data, size_t size)> sink;
};

/// The transport failed (no connection, cut, stalled); no complete HTTP answer.
struct TransportError : Error {
    TransportError(std::string message, bool is_settled, bool passes = false)
        : Error(ErrorClass::kUnavailable, std::move(message)), settled(is_settled), may_pass(passes) {}
    bool settled;  // certificates or a proxy's login: only another configuration helps
    bool may_pass; // there was a connection: asking again may help
};
/// The sink threw: carries its exception past the fallback logic.
struct SinkStopped {
    std::exception_ptr why;
};

/// Thread-safe. Keeps idle connections; each request runs on a session of its own.
class HttpClient {
  public:
    HttpClient(std::string user_agent, int64_t connect_timeout_ns, int64_t stall_timeout_ns,
               bool http2 = true);
    ~HttpClient();

    /// Follows up to 5 redirects; a request with a method that changes something only by 307 and 308. Throws
    /// TransportError, SinkStopped, Error(kCancelled, kDeadline).
    HttpResponse perform(const Call &call, const HttpRequest &request);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// "https://host:port" of a URL: what credentials belong to.
std::string origin_of(const std::string &url);
bool is_loopback_host(std::string_view host_port);
std::string escape_query(std::string_view text);

} // namespace gantry::oci
