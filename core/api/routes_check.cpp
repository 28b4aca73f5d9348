// POST /gantry/v1/system/check?deep=1&repair=1: findings as they are made, one JSON object a line, and a
// summary last. A repair has the engine to itself (the gate is closed); a look alone disturbs nobody.
#include "core/api/engine.h"
#include "core/api/gate.h"
#include "core/api/render.h"
#include "core/base/log.h"
#include "core/check/check.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>
#include <optional>

namespace json = boost::json;

namespace gantry::api {

namespace {

const char *word(Finding::Level level) {
    switch (level) {
    case Finding::Level::kNotice: return "notice";
    case Finding::Level::kMended: return "mended";
    case Finding::Level::kProblem: break;
    }
    return "problem";
}

void check(const Engine &e, Exchange &x) {
    const CheckOptions options{x.request.flag("deep"), x.request.flag("repair")};
    std::optional<Gate::Closed> closed;
    if (options.repair && e.gate) closed.emplace(*e.gate, "repair");
    CancelSource cancel;
    HangupWatch watch(x.connection, cancel);
    CallScope::Settings settings;
    settings.cancel = &cancel;
    const CallScope call(settings);
    x.response.begin(200, "application/json");
    const auto send = [&](const json::object &line) { x.response.write(json::serialize(line) + "\n"); };
    const CheckParts parts{e.db,         e.content,  e.layers,
                           e.images,     e.networks, e.volumes,
                           e.containers, e.runtime,  &e.settings->engine(),
                           e.id};
    const auto sink = [&](const Finding &f) {
        if (f.level != Finding::Level::kNotice)
            log_warn("check: {}: {} {}", word(f.level), f.subject, f.text);
        json::object line{
            {"level", word(f.level)}, {"area", f.area}, {"subject", f.subject}, {"message", f.text}};
        if (!f.hint.empty()) line["hint"] = f.hint;
        send(line);
    };
    try {
        const CheckSummary sum = check_system(parts, options, sink, call);
        send({{"summary",
               {{"problems", sum.problems},
                {"mended", sum.mended},
                {"images", sum.images},
                {"layers", sum.layers},
                {"files", sum.files},
                {"bytes", sum.bytes},
                {"blobs", sum.blobs},
                {"containers", sum.containers},
                {"volumes", sum.volumes}}}});
    } catch (const Error &error) {
        send({{"error", error_text(error)}});
    }
}

} // namespace

void add_check_routes(Router &router, const Engine &e) {
    router.add("POST", "/gantry/v1/system/check", [&e](Exchange &x) { check(e, x); });
}

} // namespace gantry::api
