#include "core/api/progress.h"

#include "core/api/dialect.h"
#include "core/api/router.h"
#include "core/base/cancel.h"
#include "core/base/log.h"
#include "core/image/images.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

namespace json = boost::json;

namespace gantry::api {

static constexpr size_t kMaxBacklog = 1u << 20;

void ProgressStream::line(const json::object &object, bool step) {
    std::lock_guard lock(mutex_);
    if (gone_) return;
    try {
        if (!response_.started()) response_.begin(200, "application/json");
        if (step && response_.backlog() > 0) return;
        response_.offer(json::serialize(object) + "\r\n");
        if (response_.backlog() > kMaxBacklog)
            throw Error(ErrorClass::kUnavailable, "send progress: the client does not read");
    } catch (const Error &) {
        // From a worker's thread: the work is told through its cancellation, not by an exception.
        gone_ = true;
        cancel_.cancel();
    }
}

void ProgressStream::line(const PullProgress &p) {
    json::object out{{"status", p.status}};
    if (!p.id.empty()) {
        json::object detail;
        if (p.current || p.total) {
            detail["current"] = p.current;
            if (p.total) detail["total"] = p.total;
            out["progress"] = progress_bar(p.current, p.total);
        }
        out["progressDetail"] = std::move(detail);
        out["id"] = p.id;
    }
    if (!p.sources.empty()) { // ours: Docker's clients pass over it
        json::array sources;
        for (const auto &[endpoint, bytes] : p.sources)
            sources.push_back({{"endpoint", endpoint}, {"bytes", bytes}});
        out["sources"] = std::move(sources);
    }
    line(out, p.current > 0);
}

void ProgressStream::failed(const Error &error) {
    log_warn("{} {}: {}", request_.method, request_.path, error.message());
    const std::string text = error_text(error);
    line({{"errorDetail", {{"message", text}}}, {"error", text}});
}

} // namespace gantry::api
