// /gantry/v1/mirror and images/verify: where images come from, how those places do, and who vouches for what.
#include "core/api/dialect.h"
#include "core/api/registry_call.h"
#include "core/api/render.h"
#include "core/image/images.h"
#include "core/image/trust.h"
#include "core/plugin/host.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <boost/json.hpp>
#include <fmt/format.h>

namespace json = boost::json;

namespace gantry::api {

namespace {

constexpr size_t kMaxRegistries = 64; // tested by one request
constexpr size_t kMaxKeys = 64;       // of a verification

json::object endpoint_json(const EndpointLine &line, const std::string &registry) {
    return {{"Registry", line.registry.empty() ? registry : line.registry},
            {"Url", line.url},
            {"Role", line.role},
            {"State", line.state},
            {"Reason", line.reason},
            {"CanPull", line.can_pull},
            {"CanResolve", line.can_resolve},
            {"CanPush", line.can_push},
            {"LatencyNs", line.latency_ns},
            {"BytesPerSecond", line.bytes_per_second},
            {"BytesServed", line.bytes_served},
            {"Successes", line.successes},
            {"Failures", line.failures},
            {"RestingNs", line.resting_ns}};
}

json::object rule_json(const TrustPolicy::Rule &rule) {
    json::array keys;
    for (const std::string &key : rule.key_names())
        keys.emplace_back(key);
    return {{"Rule", rule.name},
            {"Place", rule.place},
            {"Require", word_of(rule.what.require)},
            {"Keys", std::move(keys)},
            {"Threshold", rule.what.threshold},
            {"Reason", rule.what.reason}};
}

void explain(const Engine &engine, Exchange &x) {
    const std::string &asked = x.request.arg("ref");
    if (asked.empty()) throw Error(ErrorClass::kInvalidArgument, "explain mirrors: ref is needed");
    const RegistryConfig &config = engine.images->config();
    const ImageReference ref = parse_reference(asked, config, true);
    const ImageReference plain = parse_reference(asked, config.default_registry, true);
    RegistryCall call(engine, x);
    json::array out;
    for (const EndpointLine &line :
         engine.plugins->registry()->explain(call.call, {ref.registry, ref.repository, ref.tag, ref.digest}))
        out.push_back(endpoint_json(line, ref.registry));
    reply(x, 200,
          {{"Asked", asked},
           {"Reference", ref.full()},
           {"ShortName", plain.full() != ref.full()},
           {"Driver", fmt::format("{}", fmt::join(engine.plugins->registry_names(), ", "))},
           {"Trust", rule_json(engine.images->trust().rule_for(ref))},
           {"Endpoints", std::move(out)}});
}

void list(const Engine &engine, Exchange &x) {
    RegistryCall call(engine, x);
    json::array out;
    for (const EndpointLine &line : engine.plugins->registry()->status(call.call))
        out.push_back(endpoint_json(line, ""));
    reply(x, 200, out);
}

/// "quay.io", "127.0.0.1:5000", "localhost" and anything before a last "/" are registries.
bool names_registry(const std::string &text) {
    if (text.ends_with('/')) return true;
    const std::string host = text.substr(0, text.find(':'));
    return text.find_first_of("/@") == text.npos && (host.find('.') != host.npos || host == "localhost");
}

std::vector<RegistryReference> to_test(const Engine &engine, const Call &call, const std::string &asked) {
    if (!asked.empty() && !names_registry(asked)) {
        const ImageReference ref = parse_reference(asked, engine.images->config(), true);
        return {{ref.registry, ref.repository, ref.digest.empty() ? ref.tag : "", ref.digest}};
    }
    if (!asked.empty()) {
        const std::string host = asked.substr(0, asked.find('/'));
        parse_reference(host + "/x", host, true); // throws for what is no host
        return {{host == "index.docker.io" ? "docker.io" : host, "", "", ""}};
    }
    std::vector<RegistryReference> out;
    std::vector<std::string> names{engine.images->config().default_registry};
    for (const EndpointLine &line : engine.plugins->registry()->status(call))
        names.push_back(line.registry);
    for (const std::string &name : names) {
        const bool known = std::any_of(out.begin(), out.end(),
                                       [&](const RegistryReference &r) { return r.registry == name; });
        if (name.empty() || name.find('*') != name.npos || known || out.size() == kMaxRegistries) continue;
        out.push_back({name, "", "", ""});
    }
    return out;
}

void test(const Engine &engine, Exchange &x) {
    RegistryCall call(engine, x);
    const std::string &asked = x.request.arg("ref"), &fallback = engine.images->config().default_registry;
    json::array out;
    for (const RegistryReference &ref : to_test(engine, call.call, asked)) {
        const auto credential =
            credential_for(x.request.header("x-registry-auth"),
                           asked.empty()           ? ""
                           : names_registry(asked) ? ref.registry
                                                   : parse_reference(asked, fallback, false).registry,
                           ref.registry);
        try {
            for (const EndpointLine &line : engine.plugins->registry()->test(call.call, ref, credential))
                out.push_back(endpoint_json(line, ref.registry));
        } catch (const Error &error) {
            if (!asked.empty() || error.error_class() == ErrorClass::kCancelled) throw;
            EndpointLine line; // one of many that were not asked for by name
            line.url = ref.registry;
            line.state = "failed";
            line.reason = error.message();
            out.push_back(endpoint_json(line, ref.registry));
        }
    }
    reply(x, 200, out);
}

ImageVerification verification_of(Exchange &x) {
    boost::system::error_code failed;
    const json::value body = json::parse(x.request.body_json(), failed);
    const auto bad = [](const std::string &why) {
        return Error(ErrorClass::kInvalidArgument, "verify image: " + why);
    };
    if (failed || !body.is_object()) throw bad("the body is no JSON object");
    const auto text = [&](const json::object &o, const char *key) {
        const json::value *value = o.if_contains(key);
        if (value && !value->is_string() && !value->is_null())
            throw bad(std::string(key) + " must be a string");
        return value && value->is_string() ? std::string(value->get_string()) : std::string();
    };
    const json::object &o = body.get_object();
    ImageVerification out{text(o, "Image")};
    if (out.name.empty()) throw bad("Image is needed");
    const std::string match = text(o, "Match");
    if (match == "exact")
        out.match = TrustMatch::kExact;
    else if (match == "any")
        out.match = TrustMatch::kAny;
    else if (!match.empty() && match != "repository")
        throw bad("Match must be repository, exact or any, not '" + match + "'");
    if (const json::value *keys = o.if_contains("Keys"); keys && !keys->is_null()) {
        if (!keys->is_array() || keys->get_array().size() > kMaxKeys)
            throw bad("Keys must be a list of at most 64 keys");
        for (const json::value &key : keys->get_array()) {
            if (!key.is_object()) throw bad("a key must be an object with Name and Pem");
            out.keys.emplace_back(text(key.get_object(), "Name"), text(key.get_object(), "Pem"));
        }
    }
    out.credential = decode_credential(x.request.header("x-registry-auth"));
    return out;
}

void verify(const Engine &engine, Exchange &x) {
    const ImageVerification what = verification_of(x);
    CancelSource cancel;
    const HangupWatch watch(x.connection, cancel);
    const TrustReport report = engine.images->verify(what, cancel);
    json::array signatures, keys;
    for (const TrustSignature &one : report.signatures)
        signatures.push_back({{"Source", one.source},
                              {"Payload", one.digest},
                              {"Key", one.key},
                              {"Fingerprint", one.fingerprint},
                              {"MadeFor", one.reference},
                              {"Valid", one.problem.empty()},
                              {"Problem", one.problem}});
    for (const std::string &key : report.keys)
        keys.emplace_back(key);
    reply(x, 200,
          {{"Reference", report.reference},
           {"Digest", report.digest},
           {"Rule", report.rule},
           {"Place", report.place},
           {"Require", word_of(report.require)},
           {"Keys", std::move(keys)},
           {"Threshold", report.threshold},
           {"Trusted", report.trusted},
           {"Problem", report.problem},
           {"Hint", report.hint},
           {"Signatures", std::move(signatures)}});
}

} // namespace

void add_mirror_routes(Router &router, const Engine &e) {
    router.add("GET", "/gantry/v1/mirror/explain", [&e](Exchange &x) { explain(e, x); });
    router.add("GET", "/gantry/v1/mirror/ls", [&e](Exchange &x) { list(e, x); });
    router.add("POST", "/gantry/v1/mirror/test", [&e](Exchange &x) { test(e, x); });
    router.add("POST", "/gantry/v1/images/verify", [&e](Exchange &x) { verify(e, x); });
}

} // namespace gantry::api
