// Connecting costs one connect(2): no ping and no version negotiation, the daemon refuses a version that
// it does not speak with a message of its own.
#include "core/cli/client.h"

#include "core/cli/daemon_start.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <cstdlib>

namespace gantry::cli {

Endpoint Endpoint::parse(const std::string &host) {
    Endpoint endpoint;
    endpoint.is_default = false;
    if (host.starts_with("unix://"))
        endpoint.path = host.substr(7);
    else if (host.starts_with("/"))
        endpoint.path = host;
    else
        throw Error(ErrorClass::kInvalidArgument,
                    "parse host \"" + host + "\": only unix://PATH is supported");
    if (endpoint.path.empty() || endpoint.path.size() > 107)
        throw Error(ErrorClass::kInvalidArgument,
                    "parse host \"" + host + "\": bad length of the socket path");
    return endpoint;
}

Client::~Client() = default;

std::string Client::versioned(const std::string &path) const {
    if (path.starts_with("/gantry/")) return path;
    const char *version = getenv("GANTRY_API_VERSION"); // to speak to an older Engine
    return "/v" + std::string(version && *version ? version : "1.47") + path;
}

HttpConnection Client::connect() { return HttpConnection(connect_or_start(endpoint_)); }

void throw_api_error(HttpConnection &connection, const HttpHead &head) {
    std::string body = connection.read_body(1u << 20);
    boost::system::error_code error;
    boost::json::value parsed = boost::json::parse(body, error);
    if (!error && parsed.is_object())
        if (auto *message = parsed.as_object().if_contains("message"); message && message->is_string())
            throw ApiError(head.status, std::string(message->as_string()));
    while (!body.empty() && (body.back() == '\n' || body.back() == '\r'))
        body.pop_back();
    if (body.empty()) body = "status " + std::to_string(head.status) + " without a message";
    throw ApiError(head.status, body);
}

boost::json::value Client::call(HttpRequest request) {
    request.target = versioned(request.target);
    if (!kept_ || !kept_->reusable()) kept_ = std::make_unique<HttpConnection>(connect());
    kept_->send(request);
    HttpHead head = kept_->read_head(request.method == "HEAD");
    if (head.status >= 400) throw_api_error(*kept_, head);
    std::string body = kept_->read_body();
    if (body.find_first_not_of(" \r\n\t") == std::string::npos) return nullptr;
    if (head.header("content-type").starts_with("text/plain")) return boost::json::value(body);
    boost::system::error_code error;
    boost::json::parse_options options;
    options.max_depth = 128;
    boost::json::value value = boost::json::parse(body, error, {}, options);
    if (error) throw Error(ErrorClass::kDataLoss, "read answer of the daemon: bad JSON: " + error.message());
    return value;
}

boost::json::value Client::get(const std::string &path) { return call({.target = path}); }
boost::json::value Client::post(const std::string &path) { return call({.method = "POST", .target = path}); }

boost::json::value Client::post(const std::string &path, const boost::json::value &body) {
    return call({.method = "POST",
                 .target = path,
                 .headers = {{"Content-Type", "application/json"}},
                 .body = boost::json::serialize(body),
                 .has_body = true});
}

void Client::remove(const std::string &path) { call({.method = "DELETE", .target = path}); }

HttpConnection Client::open_stream(HttpRequest request, HttpHead *head_out) {
    request.target = versioned(request.target);
    HttpConnection connection = connect();
    connection.send(request);
    HttpHead head = connection.read_head();
    if (head.status >= 400) throw_api_error(connection, head);
    if (head_out) *head_out = std::move(head);
    return connection;
}

} // namespace gantry::cli
