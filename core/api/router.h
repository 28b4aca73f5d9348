// From a path to a handler, and from an Error to an answer.
#pragma once

#include "core/api/http.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace gantry {
class Error;
}

namespace gantry::api {

inline constexpr int kApiMinor = 47, kApiMinorOldest = 24; // 1.24 .. 1.47

struct Exchange {
    Request &request;
    Response &response;
    Connection &connection;
};
using Handler = std::function<void(Exchange &)>;

class Router {
  public:
    /// Pattern segments: literal, "{name}" (one segment) or "{name...}" (one or more). First match wins.
    void add(const char *methods, const char *pattern, Handler handler);
    /// Asked before each handler; what it returns lives as long as the handler runs.
    void guard(std::function<std::shared_ptr<void>(const Request &)> guard) { guard_ = std::move(guard); }
    /// Answers one request; whatever a handler throws becomes an answer or, once the head is out, an
    /// early end of the stream. HttpError and a vanished client pass through.
    void serve(Exchange &exchange) const;

  private:
    struct Route {
        std::vector<std::string> methods, segments;
        Handler handler;
    };
    std::vector<Route> routes_;
    std::function<std::shared_ptr<void>(const Request &)> guard_;
};

int http_status(const Error &error);
/// "message. Hint." in one text.
std::string error_text(const Error &error);

} // namespace gantry::api
