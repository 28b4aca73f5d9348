#include "core/api/gate.h"

#include "core/api/http.h"

#include <gantry/error.hpp>

#include <chrono>

namespace gantry::api {

namespace {

constexpr std::chrono::seconds kPatience(10);

bool ends_with_any(const std::string &path, std::initializer_list<const char *> ends) {
    for (const char *end : ends)
        if (path.ends_with(end)) return true;
    return false;
}

bool touches_layers(const Request &request) {
    if (request.path.ends_with("/system/migrate") || request.path.ends_with("/system/check") ||
        request.path == "/auth")
        return false;
    if (request.method == "GET" || request.method == "HEAD")
        return ends_with_any(request.path, {"/archive", "/export", "/changes", "/get", "/df"});
    return !ends_with_any(request.path, {"/wait", "/attach"});
}

} // namespace

std::shared_ptr<void> Gate::enter(const Request &request) {
    if (!touches_layers(request)) return nullptr;
    const std::lock_guard lock(mutex_);
    if (closed_) throw HttpError{503, std::string(what_) + ": under way; try again afterwards"};
    ++inside_;
    return {this, [](Gate *gate) {
                const std::lock_guard inner(gate->mutex_);
                --gate->inside_;
                gate->left_.notify_all();
            }};
}

Gate::Closed::Closed(Gate &gate, const char *what) : gate_(gate) {
    std::unique_lock lock(gate.mutex_);
    if (gate.closed_)
        throw Error(ErrorClass::kFailedPrecondition,
                    std::string(what) + ": the engine is busy (" + gate.what_ + ")", "try again afterwards");
    gate.closed_ = true;
    gate.what_ = what;
    if (gate.left_.wait_for(lock, kPatience, [&] { return gate.inside_ == 0; })) return;
    gate.closed_ = false;
    throw Error(ErrorClass::kFailedPrecondition,
                std::string(what) + ": " + std::to_string(gate.inside_) + " requests are still at work",
                "wait for pulls, copies and the like to end, and try again");
}

Gate::Closed::~Closed() {
    if (kept_) return;
    const std::lock_guard lock(gate_.mutex_);
    gate_.closed_ = false;
}

} // namespace gantry::api
