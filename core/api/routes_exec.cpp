// exec: create under /containers/X/exec, start, inspect and resize under /exec/E.
#include "core/api/dialect.h"
#include "core/api/render.h"
#include "core/container/containers.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <boost/json.hpp>
#include <fmt/format.h>

namespace json = boost::json;

namespace gantry::api {

namespace {

[[noreturn]] void bad_field(const char *name, const char *wanted) {
    throw Error(ErrorClass::kInvalidArgument, fmt::format("invalid JSON: {} must be {}", name, wanted));
}

bool boolean(const json::object &body, const char *name) {
    const json::value *value = body.if_contains(name);
    if (!value || value->is_null()) return false;
    if (!value->is_bool()) bad_field(name, "true or false");
    return value->get_bool();
}

std::string text(const json::object &body, const char *name) {
    const json::value *value = body.if_contains(name);
    if (!value || value->is_null()) return {};
    if (!value->is_string()) bad_field(name, "a string");
    return std::string(value->get_string());
}

std::vector<std::string> list(const json::object &body, const char *name) {
    const json::value *value = body.if_contains(name);
    if (!value || value->is_null()) return {};
    if (value->is_string()) return {std::string(value->get_string())};
    if (!value->is_array()) bad_field(name, "a list of strings");
    std::vector<std::string> out;
    for (const json::value &item : value->get_array()) {
        if (!item.is_string()) bad_field(name, "a list of strings");
        out.emplace_back(item.get_string());
    }
    return out;
}

void console_size(const json::object &body, uint16_t &height, uint16_t &width) {
    const json::value *value = body.if_contains("ConsoleSize");
    if (!value || !value->is_array() || value->get_array().size() != 2) return;
    auto side = [](const json::value &v) {
        return uint16_t(v.is_int64() ? std::clamp<int64_t>(v.get_int64(), 0, 65535) : 0);
    };
    height = side(value->get_array()[0]);
    width = side(value->get_array()[1]);
}

void create(const Engine &engine, Exchange &x) {
    const json::object body = body_object(x, true);
    ExecConfig config;
    config.cmd = list(body, "Cmd");
    if (config.cmd.empty()) throw Error(ErrorClass::kInvalidArgument, "No exec command specified");
    config.env = list(body, "Env");
    config.user = text(body, "User");
    config.working_dir = text(body, "WorkingDir");
    config.detach_keys = text(body, "DetachKeys");
    config.attach_stdin = boolean(body, "AttachStdin");
    config.attach_stdout = boolean(body, "AttachStdout");
    config.attach_stderr = boolean(body, "AttachStderr");
    config.tty = boolean(body, "Tty");
    config.privileged = boolean(body, "Privileged");
    console_size(body, config.console_height, config.console_width);
    reply(x, 201, json::object{{"Id", engine.containers->exec_create(x.request.params[0], config)}});
}

void start(const Engine &engine, Exchange &x) {
    const json::object body = body_object(x);
    const bool detach = boolean(body, "Detach");
    uint16_t height = 0, width = 0;
    console_size(body, height, width);
    const std::string &id = x.request.params[0];
    if (detach) {
        engine.containers->exec_start(id, UniqueFd(), true, height, width);
        return x.response.empty(200);
    }
    // Judged while an answer can still carry a status.
    const ExecInfo info = engine.containers->exec_inspect(id);
    if (info.started)
        throw Error(ErrorClass::kFailedPrecondition, fmt::format("exec command {} is already running", id));
    const ContainerInfo container = engine.containers->inspect(info.container_id);
    if (!container.state.running)
        throw Error(ErrorClass::kFailedPrecondition,
                    fmt::format("Container {} is not running", info.container_id));
    if (container.state.paused)
        throw Error(
            ErrorClass::kFailedPrecondition,
            fmt::format("Container {} is paused, unpause the container before exec", info.container_id));
    const bool framed = !info.config.tty && x.request.api_minor >= 42;
    UniqueFd connection = x.response.hijack(framed ? "application/vnd.docker.multiplexed-stream"
                                                   : "application/vnd.docker.raw-stream");
    engine.containers->exec_start(id, std::move(connection), false, height, width);
}

void inspect(const Engine &engine, Exchange &x) {
    const ExecInfo info = engine.containers->exec_inspect(x.request.params[0]);
    const ExecConfig &c = info.config;
    std::vector<std::string> arguments(c.cmd.begin() + (c.cmd.empty() ? 0 : 1), c.cmd.end());
    json::object process{{"tty", c.tty},
                         {"entrypoint", c.cmd.empty() ? "" : c.cmd.front()},
                         {"arguments", strings_json(arguments)},
                         {"privileged", c.privileged}};
    if (!c.user.empty()) process["user"] = c.user;
    json::object out{{"ID", info.id},
                     {"Running", info.running},
                     {"ExitCode", nullptr},
                     {"ProcessConfig", std::move(process)},
                     {"OpenStdin", c.attach_stdin},
                     {"OpenStderr", c.attach_stderr},
                     {"OpenStdout", c.attach_stdout},
                     {"CanRemove", info.started && !info.running},
                     {"ContainerID", info.container_id},
                     {"DetachKeys", c.detach_keys},
                     {"Pid", info.pid}};
    if (info.exit_code) out["ExitCode"] = *info.exit_code;
    reply(x, 200, out);
}

} // namespace

void add_exec_routes(Router &router, const Engine &e) {
    router.add("POST", "/containers/{name}/exec", [&e](Exchange &x) { create(e, x); });
    router.add("POST", "/exec/{id}/start", [&e](Exchange &x) { start(e, x); });
    router.add("GET", "/exec/{id}/json", [&e](Exchange &x) { inspect(e, x); });
    router.add("POST", "/exec/{id}/resize", [&e](Exchange &x) {
        const int64_t h = parse_integer(x.request.arg("h"), 0, "h"),
                      w = parse_integer(x.request.arg("w"), 0, "w");
        e.containers->exec_resize(x.request.params[0], uint16_t(std::clamp<int64_t>(h, 0, 65535)),
                                  uint16_t(std::clamp<int64_t>(w, 0, 65535)));
        x.response.empty(200);
    });
}

} // namespace gantry::api
