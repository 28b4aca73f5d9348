// Versions are negotiated here once: "/v1.NN" is cut off and remembered, no prefix means the newest. An
// unknown path and a wrong method are the same 404, as in dockerd.
#include "core/api/router.h"
#include "core/base/log.h"

#include <gantry/error.hpp>

#include <charconv>
#include <fmt/format.h>
#include <sstream>

namespace gantry::api {

namespace {

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> out;
    while (!text.empty()) {
        size_t end = std::min(text.find(separator), text.size());
        if (end > 0) out.emplace_back(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

bool is_capture(const std::string &segment) { return segment.front() == '{'; }
bool is_rest(const std::string &segment) { return segment.size() > 5 && segment.ends_with("...}"); }

bool match(const std::vector<std::string> &pattern, const std::vector<std::string> &path,
           std::vector<std::string> &params) {
    params.clear();
    size_t at = 0;
    for (size_t i = 0; i < pattern.size(); ++i) {
        const size_t after = pattern.size() - i - 1;
        if (at + after >= path.size()) return false;
        if (is_rest(pattern[i])) {
            std::string joined;
            for (; at + after < path.size(); ++at)
                joined += (joined.empty() ? "" : "/") + path[at];
            params.push_back(percent_decode(joined, false));
        } else if (is_capture(pattern[i])) {
            params.push_back(percent_decode(path[at++], false));
        } else if (pattern[i] != path[at++]) {
            return false;
        }
    }
    return at == path.size();
}

/// Cuts "/vN.NN" off; false when the path has none. `major` -1: not a version of ours.
bool cut_version(std::string &path, std::string &text, int &major, int &minor) {
    if (path.size() < 3 || path[1] != 'v' || path[2] < '0' || path[2] > '9') return false;
    size_t end = std::min(path.find('/', 1), path.size());
    text = path.substr(2, end - 2);
    if (text.find_first_not_of("0123456789.") != text.npos) return false;
    path = end == path.size() ? "/" : path.substr(end);
    size_t dot = std::min(text.find('.'), text.size());
    major = minor = -1;
    std::from_chars(text.data(), text.data() + dot, major);
    if (dot < text.size()) std::from_chars(text.data() + dot + 1, text.data() + text.size(), minor);
    return true;
}

std::string cleaned(const std::string &path) {
    std::string out;
    for (const std::string &segment : split(path, '/')) {
        if (segment == ".") continue;
        out += "/" + segment;
    }
    return out.empty() ? "/" : out;
}

} // namespace

void Router::add(const char *methods, const char *pattern, Handler handler) {
    routes_.push_back({split(methods, ' '), split(pattern, '/'), std::move(handler)});
}

int http_status(const Error &error) {
    switch (error.error_class()) {
    case ErrorClass::kNotFound: return 404;
    case ErrorClass::kAlreadyExists:
    case ErrorClass::kFailedPrecondition: return 409;
    case ErrorClass::kInvalidArgument: return 400;
    case ErrorClass::kUnsupported: return 501;
    case ErrorClass::kPermissionDenied: return 403;
    default: return 500;
    }
}

std::string error_text(const Error &error) {
    return error.hint().empty() ? error.message() : error.message() + " (" + error.hint() + ")";
}

void Router::serve(Exchange &exchange) const {
    Request &request = exchange.request;
    Response &response = exchange.response;
    response.common = {{"Api-Version", fmt::format("1.{}", kApiMinor)},
                       {"Docker-Experimental", "false"},
                       {"Ostype", "linux"},
                       {"Server", "Gantry/" GANTRY_VERSION " (linux)"}};
    // An import URL in a path is not a thing of this API: two slashes are always a mistake of the client.
    if (request.path.find("//") != std::string::npos) {
        size_t question = request.target.find('?');
        response.header("Location",
                        cleaned(request.path) +
                            (question == std::string::npos ? "" : request.target.substr(question)));
        return response.empty(301);
    }
    std::string version;
    int major = 0, minor = 0;
    const bool versioned = cut_version(request.path, version, major, minor);
    const std::vector<std::string> path = split(request.path, '/');
    for (const Route &route : routes_) {
        bool method_fits = false;
        for (const std::string &method : route.methods)
            method_fits |= method == request.method;
        if (!method_fits || !match(route.segments, path, request.params)) continue;
        if (versioned) {
            if (major < 0 || (minor < 0 && major == 1))
                return response.error(400, "invalid version format: " + version);
            if (major > 1 || (major == 1 && minor > kApiMinor))
                return response.error(
                    400, fmt::format("client version {} is too new. Maximum supported API version is 1.{}",
                                     version, kApiMinor));
            if (major < 1 || minor < kApiMinorOldest)
                return response.error(
                    400, fmt::format("client version {} is too old. Minimum supported API version is 1.{}, "
                                     "please upgrade your client to a newer version",
                                     version, kApiMinorOldest));
            request.api_minor = minor;
        }
        try {
            const std::shared_ptr<void> pass = guard_ ? guard_(request) : nullptr;
            route.handler(exchange);
            response.end();
        } catch (const Error &error) {
            if (exchange.connection.hijacked()) {
                log_warn("{} {}: {}", request.method, request.path, error.message());
                return;
            }
            if (response.started()) {
                if (error.error_class() != ErrorClass::kUnavailable)
                    log_debug("{} {}: stream ended early: {}", request.method, request.path, error.message());
                throw;
            }
            const int status = http_status(error);
            if (status >= 500) log_warn("{} {}: {}", request.method, request.path, error.message());
            response.error(status, error_text(error));
        } catch (const std::exception &error) {
            log_error("{} {}: {}", request.method, request.path, error.what());
            if (exchange.connection.hijacked()) return;
            if (response.started()) throw;
            response.error(500, std::string("internal error: ") + error.what());
        }
        return;
    }
    response.error(404, "page not found");
}

} // namespace gantry::api
