// wait, attach and logs. The order of a `docker run` is create, attach, wait, start: wait therefore sends
// its head at once and its body at the end, and attach hands the bare connection away.
#include "core/api/dialect.h"
#include "core/api/render.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/container/containers.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>
#include <fmt/format.h>
#include <mutex>
#include <optional>
#include <sys/eventfd.h>

namespace json = boost::json;

namespace gantry::api {

namespace {

void wait(const Engine &engine, Exchange &x) {
    const std::string &word = x.request.arg("condition");
    WaitCondition condition = WaitCondition::kNotRunning;
    if (word == "next-exit")
        condition = WaitCondition::kNextExit;
    else if (word == "removed")
        condition = WaitCondition::kRemoved;
    else if (!word.empty() && word != "not-running")
        throw Error(ErrorClass::kInvalidArgument, "invalid condition: \"" + word + "\"");

    // Shared with the callback: it may still be on its way in when a client leaves.
    struct State {
        std::mutex mutex;
        std::optional<WaitResult> result;
        UniqueFd wake{eventfd(0, EFD_CLOEXEC)};
    };
    auto state = std::make_shared<State>();
    auto handle = engine.containers->wait(x.request.params[0], condition, [state](const WaitResult &result) {
        std::lock_guard lock(state->mutex);
        state->result = result;
        eventfd_write(state->wake.get(), 1);
    });
    x.response.begin(200, "application/json");
    bool timed_out = false;
    if (!wait_for(x.connection, state->wake.get(), -1, timed_out))
        throw Error(ErrorClass::kUnavailable, "wait for container: the client has gone");
    WaitResult result;
    {
        std::lock_guard lock(state->mutex);
        result = state->result.value_or(WaitResult{});
    }
    json::object body{{"Error", nullptr}, {"StatusCode", result.status}};
    // A start that failed has told its caller why; clients print this one as a failure to wait.
    if (!result.error.empty() && result.status == 0) body["Error"] = {{"Message", result.error}};
    x.response.write(json::serialize(body) + "\n");
}

void attach(const Engine &engine, Exchange &x) {
    AttachRequestOptions options;
    options.stdin_ = x.request.flag("stdin");
    options.stdout_ = x.request.flag("stdout");
    options.stderr_ = x.request.flag("stderr");
    options.logs = x.request.flag("logs");
    options.stream = x.request.flag("stream");
    options.detach_keys = x.request.arg("detachKeys");
    const ContainerInfo info = engine.containers->inspect(x.request.params[0]);
    if (info.state.paused)
        throw Error(
            ErrorClass::kFailedPrecondition,
            fmt::format("Container {} is paused, unpause the container before attach.", x.request.params[0]));
    if (info.state.restarting)
        throw Error(ErrorClass::kFailedPrecondition,
                    fmt::format("Container {} is restarting, wait until the container is running",
                                x.request.params[0]));
    if (!x.request.body_done()) x.request.body_text(64u << 10);
    const bool framed = !info.config.tty && x.request.api_minor >= 42;
    auto accept = [&] {
        return x.response.hijack(framed ? "application/vnd.docker.multiplexed-stream"
                                        : "application/vnd.docker.raw-stream");
    };
    engine.containers->attach(info.id, accept, options);
}

int64_t time_argument(const Request &request, const char *name) {
    const std::string &text = request.arg(name);
    if (text.empty() || text == "0") return 0;
    int64_t value = 0;
    if (!parse_time(text, value))
        throw Error(ErrorClass::kInvalidArgument,
                    fmt::format("invalid value for \"{}\": {} is no time", name, text));
    return value;
}

void logs(const Engine &engine, Exchange &x) {
    LogQuery query;
    query.stdout_ = x.request.flag("stdout");
    query.stderr_ = x.request.flag("stderr");
    if (!query.stdout_ && !query.stderr_)
        throw Error(ErrorClass::kInvalidArgument, "Bad parameters: you must choose at least one stream");
    query.follow = x.request.flag("follow");
    query.timestamps = x.request.flag("timestamps");
    query.since_ns = time_argument(x.request, "since");
    query.until_ns = time_argument(x.request, "until");
    const std::string &tail = x.request.arg("tail");
    // As dockerd: whatever is no number means everything.
    if (!tail.empty() && tail != "all" && tail.find_first_not_of("0123456789") == tail.npos)
        query.tail = parse_integer(tail, -1, "tail");
    const ContainerInfo info = engine.containers->inspect(x.request.params[0]);
    const bool tty = info.config.tty;
    const bool details = x.request.flag("details");

    CancelSource cancel;
    HangupWatch watch(x.connection, cancel);
    x.response.begin(200, x.request.api_minor < 42 ? ""
                          : tty                    ? "application/vnd.docker.raw-stream"
                                                   : "application/vnd.docker.multiplexed-stream");
    // Small records are gathered so that a long log is not one system call per line; with follow each
    // record goes out as it comes.
    std::string pending;
    engine.containers->logs(info.id, query, cancel, [&](const LogRecord &record) {
        std::string text = query.timestamps ? rfc3339(record.time_ns) + " " : "";
        if (details) text += " ";
        text += record.text;
        if (!tty) {
            const uint32_t size = uint32_t(text.size());
            const char frame[8] = {char(record.stream), 0,         0, 0, char(size >> 24), char(size >> 16),
                                   char(size >> 8),     char(size)};
            pending.append(frame, sizeof frame);
        }
        pending += text;
        if (query.follow || pending.size() >= 32u << 10) {
            x.response.write(pending);
            pending.clear();
        }
        return true;
    });
    if (!pending.empty()) x.response.write(pending);
}

} // namespace

void add_container_stream_routes(Router &router, const Engine &e) {
    router.add("POST", "/containers/{name}/wait", [&e](Exchange &x) { wait(e, x); });
    router.add("POST", "/containers/{name}/attach", [&e](Exchange &x) { attach(e, x); });
    router.add("GET", "/containers/{name}/logs", [&e](Exchange &x) { logs(e, x); });
}

} // namespace gantry::api
