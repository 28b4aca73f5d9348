// The Engine API as the commands see it: where the daemon is, JSON calls, errors of the daemon.
#pragma once

#include "core/cli/http_client.h"

#include <boost/json/fwd.hpp>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

namespace gantry::cli {

/// The daemon answered with an error; printed as "Error response from daemon: <message>".
struct ApiError : std::runtime_error {
    ApiError(int status_code, const std::string &message)
        : std::runtime_error(message), status(status_code) {}
    int status;
};

/// Ends the command with this exit code; a message, when there is one, is printed first.
struct ExitWith : std::runtime_error {
    explicit ExitWith(int exit_code, const std::string &message = {})
        : std::runtime_error(message), code(exit_code) {}
    int code;
};

struct Endpoint {
    std::string path = "/run/gantry/gantry.sock";
    bool is_default = true;
    /// Accepts unix://PATH or an absolute path. Throws Error for anything else.
    static Endpoint parse(const std::string &host);
};

class Client {
  public:
    explicit Client(Endpoint endpoint) : endpoint_(std::move(endpoint)) {}
    ~Client();

    /// A new connection; on the default socket the daemon is started when nothing answers.
    HttpConnection connect();
    /// One call on the kept connection, for a status >= 400 throws ApiError. `path` is without the
    /// version prefix ("/containers/json?all=1") unless it starts with "/gantry/".
    boost::json::value get(const std::string &path);
    boost::json::value post(const std::string &path);
    boost::json::value post(const std::string &path, const boost::json::value &body);
    void remove(const std::string &path);
    boost::json::value call(HttpRequest request);
    /// Sends on a connection of its own and reads the head; throws ApiError for a status >= 400.
    HttpConnection open_stream(HttpRequest request, HttpHead *head = nullptr);
    std::string versioned(const std::string &path) const;
    const Endpoint &endpoint() const { return endpoint_; }

  private:
    Endpoint endpoint_;
    std::unique_ptr<HttpConnection> kept_;
};

/// Reads the body of a failed answer and throws ApiError.
[[noreturn]] void throw_api_error(HttpConnection &connection, const HttpHead &head);

} // namespace gantry::cli
