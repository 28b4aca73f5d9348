// Where images come from and who vouches for them: mirror ls, test, explain, and image verify.
#include "core/cli/command.h"
#include "core/cli/format.h"
#include "core/cli/registry_auth.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <cstdio>
#include <fcntl.h>
#include <map>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using enum FlagType;

constexpr size_t kMaxKeyFile = 64 << 10;

std::string rights_of(const json::value &endpoint) {
    std::string out;
    for (auto [key, right] :
         {std::pair{"can_resolve", "resolve"}, {"can_pull", "pull"}, {"can_push", "push"}})
        if (bool_at(endpoint, key)) out += (out.empty() ? "" : ",") + std::string(right);
    return out.empty() ? "none" : out;
}

std::string latency_of(const json::value &endpoint) {
    const json::value &value = at(endpoint, "latency_ns");
    const int64_t ns = value.is_null() ? -1 : number_at(endpoint, "latency_ns");
    if (ns < 0) return "-";
    char text[32];
    snprintf(text, sizeof text, ns < 10'000'000 ? "%.1fms" : "%.0fms", static_cast<double>(ns) / 1e6);
    return text;
}

std::string speed_of(const json::value &endpoint) {
    const int64_t speed = number_at(endpoint, "bytes_per_second");
    return speed > 0 ? human_size(static_cast<double>(speed)) + "/s" : "-";
}

std::string state_of(const json::value &endpoint) {
    const int64_t resting = number_at(endpoint, "resting_ns");
    std::string state = text_at(endpoint, "state");
    if (resting > 0 && !state.starts_with("resting"))
        state += " (resting for " + std::to_string((resting + 999'999'999) / 1'000'000'000) + "s)";
    return state;
}

void print_endpoints(const json::value &list, const char *table, const std::string &format) {
    std::vector<json::object> rows;
    for (const json::value &endpoint : array_of(list))
        rows.push_back({{"Registry", printable(text_at(endpoint, "registry"))},
                        {"URL", printable(text_at(endpoint, "url"))},
                        {"Role", printable(text_at(endpoint, "role"))},
                        {"Rights", rights_of(endpoint)},
                        {"State", printable(state_of(endpoint))},
                        {"Latency", latency_of(endpoint)},
                        {"Speed", speed_of(endpoint)},
                        {"Served", human_size(static_cast<double>(number_at(endpoint, "bytes_served")))},
                        {"Successes", number_at(endpoint, "successes")},
                        {"Failures", number_at(endpoint, "failures")},
                        {"Reason", printable(text_at(endpoint, "reason"))}});
    static const json::object kHeaders{
        {"Registry", "REGISTRY"},   {"URL", "URL"},           {"Role", "ROLE"},    {"Rights", "RIGHTS"},
        {"State", "STATE"},         {"Latency", "LATENCY"},   {"Speed", "SPEED"},  {"Served", "SERVED"},
        {"Successes", "SUCCESSES"}, {"Failures", "FAILURES"}, {"Reason", "REASON"}};
    print_list(rows, {table, kHeaders}, format);
}

int mirror_ls(Invocation &invocation) {
    const json::value list = snake_keys(invocation.client.get("/gantry/v1/mirror/ls"));
    print_endpoints(list,
                    "{{.Registry}}\t{{.URL}}\t{{.Role}}\t{{.Rights}}\t{{.State}}\t{{.Latency}}\t{{.Speed}}\t"
                    "{{.Failures}}",
                    invocation.flags.get("format"));
    return 0;
}

/// Exit code 1 when a registry has no endpoint that works: then a pull would fail.
int mirror_test(Invocation &invocation) {
    const std::string path = "/gantry/v1/mirror/test";
    HttpRequest request{.method = "POST", .target = path};
    if (!invocation.args.empty()) {
        const std::string &asked = invocation.args[0];
        request.target += "?ref=" + url_encode(asked);
        const bool image = asked.find_first_of("/@") < asked.size() - 1;
        request.headers = {{"X-Registry-Auth",
                            registry_auth_header(image ? registry_of(asked)
                                                       : login_server(asked.substr(0, asked.find('/'))))}};
    }
    const json::value list = snake_keys(invocation.client.call(std::move(request)));
    print_endpoints(list,
                    "{{.Registry}}\t{{.URL}}\t{{.Rights}}\t{{.State}}\t{{.Latency}}\t{{.Speed}}\t{{.Reason}}",
                    invocation.flags.get("format"));
    std::map<std::string, bool> works;
    for (const json::value &endpoint : array_of(list)) {
        bool &any = works[text_at(endpoint, "registry")];
        any = any || text_at(endpoint, "state") == "ok";
    }
    for (const auto &[registry, any] : works)
        if (!any) return 1;
    return 0;
}

/// "trust.default (FILE:1:2): signature by 2 of a.pub, b.pub".
std::string rule_text(const json::value &rule) {
    std::string out = text_at(rule, "rule");
    if (const std::string place = text_at(rule, "place"); !place.empty()) out += " (" + place + ")";
    const std::string require = text_at(rule, "require");
    out += ": " + require;
    if (require == "signature") {
        if (const int64_t threshold = number_at(rule, "threshold"); threshold > 1)
            out += " by " + std::to_string(threshold) + " of";
        else
            out += " by";
        const char *separator = " ";
        for (const json::value &key : array_of(at(rule, "keys"))) {
            out += separator + (key.is_string() ? std::string(key.get_string()) : "");
            separator = ", ";
        }
    }
    if (const std::string reason = text_at(rule, "reason"); !reason.empty()) out += "; " + reason;
    return out;
}

int mirror_explain(Invocation &invocation) {
    const json::value answer =
        snake_keys(invocation.client.get("/gantry/v1/mirror/explain?ref=" + url_encode(invocation.args[0])));
    if (std::string format = invocation.flags.get("format"); !format.empty())
        return print_format(answer, format);
    std::string reference = text_at(answer, "reference");
    if (bool_at(answer, "short_name")) reference += " (short name " + text_at(answer, "asked") + ")";
    std::string text = "Reference: " + printable(reference) + "\n";
    if (const std::string driver = text_at(answer, "driver"); !driver.empty())
        text += "Driver:    " + printable(driver) + "\n";
    if (const json::value &trust = at(answer, "trust"); trust.is_object())
        text += "Trust:     " + printable(rule_text(trust)) + "\n";
    std::vector<std::string> lines{"\tENDPOINT\tROLE\tRESOLVE\tPULL\tPUSH\tSTATE\tLATENCY\tSPEED"};
    std::vector<std::string> reasons{""};
    for (const json::value &endpoint : array_of(at(answer, "endpoints"))) {
        std::string line = std::to_string(lines.size()) + ".\t" + text_at(endpoint, "url") + "\t" +
                           text_at(endpoint, "role");
        for (const char *right : {"can_resolve", "can_pull", "can_push"})
            line += bool_at(endpoint, right) ? "\tyes" : "\tno";
        lines.push_back(line + "\t" + state_of(endpoint) + "\t" + latency_of(endpoint) + "\t" +
                        speed_of(endpoint));
        reasons.push_back(text_at(endpoint, "reason"));
    }
    if (lines.size() == 1) text += "No endpoint would be asked.\n";
    std::string table = align_columns(lines);
    for (size_t i = 0, from = 0; lines.size() > 1 && i < lines.size() && from < table.size(); ++i) {
        const size_t end = std::min(table.find('\n', from), table.size());
        text += printable(table.substr(from, end - from)) + "\n";
        if (!reasons[i].empty()) text += "          " + printable(reasons[i]) + "\n";
        from = end + 1;
    }
    write_all(1, text, "standard output");
    return 0;
}

std::string read_key(const std::string &path) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) throw Error::from_errno(errno, "read key " + path);
    std::string out(kMaxKeyFile + 1, '\0');
    size_t size = 0;
    while (size < out.size()) {
        const ssize_t got = ::read(file.get(), out.data() + size, out.size() - size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw Error::from_errno(errno, "read key " + path);
        if (got == 0) break;
        size += static_cast<size_t>(got);
    }
    if (size > kMaxKeyFile)
        throw Error(ErrorClass::kInvalidArgument, "read key " + path + ": larger than 64 KiB");
    out.resize(size);
    return out;
}

int image_verify(Invocation &invocation) {
    json::object ask{{"Image", invocation.args[0]}};
    if (invocation.flags.has("match")) ask["Match"] = invocation.flags.get("match");
    json::array keys;
    for (const std::string &path : invocation.flags.list("key"))
        keys.push_back({{"Name", path}, {"Pem", read_key(path)}});
    if (keys.empty() && invocation.flags.has("match"))
        throw Error(ErrorClass::kInvalidArgument, "verify image: --match goes with --key",
                    "without keys the rule of the image's name decides");
    if (!keys.empty()) ask["Keys"] = std::move(keys);
    const json::value report = snake_keys(invocation.client.call(
        {.method = "POST",
         .target = "/gantry/v1/images/verify",
         .headers = {{"Content-Type", "application/json"},
                     {"X-Registry-Auth", registry_auth_header(registry_of(invocation.args[0]))}},
         .body = json::serialize(ask),
         .has_body = true}));
    const bool trusted = bool_at(report, "trusted");
    if (std::string format = invocation.flags.get("format"); !format.empty()) {
        print_format(report, format);
        return trusted ? 0 : 1;
    }
    std::string text = "Image:     " + printable(text_at(report, "reference")) + "\n";
    text += "Digest:    " + printable(text_at(report, "digest")) + "\n";
    text += "Rule:      " + printable(rule_text(report)) + "\n";
    for (const json::value &one : array_of(at(report, "signatures"))) {
        const std::string key = text_at(one, "key"), problem = text_at(one, "problem");
        std::string line = problem.empty() ? "valid, by " + key + " for " + text_at(one, "made_for")
                           : key.empty()   ? problem
                                           : "by " + key + ", but " + problem;
        text +=
            "Signature: " + printable(line) + "\n           in " + printable(text_at(one, "source")) + "\n";
    }
    if (array_of(at(report, "signatures")).empty()) text += "Signature: none found\n";
    text += trusted ? "Trusted:   yes\n" : "Trusted:   no: " + printable(text_at(report, "problem")) + "\n";
    write_all(1, text, "standard output");
    if (const std::string hint = text_at(report, "hint"); !trusted && !hint.empty())
        print_error("hint: " + hint);
    return trusted ? 0 : 1;
}

constexpr Flag kFormatFlags[] = {{"format", 'f', kString, "Format output using a Go template or 'json'"}};
constexpr Flag kListFlags[] = {
    {"format", 0, kString, "Format output using a Go template, 'table TEMPLATE' or 'json'"}};
constexpr Flag kVerifyFlags[] = {
    {"format", 'f', kString, "Format output using a Go template or 'json'"},
    {"key", 0, kList, "Public key in a PEM file (ECDSA P-256, Ed25519) instead of those of the rule", "FILE"},
    {"match", 0, kString, "With --key: the name a signature must be for: repository, exact or any"}};

} // namespace

std::span<const Command> mirror_commands() {
    static const Command kCommands[] = {
        {"mirror explain", "", "[OPTIONS] REFERENCE",
         "Show which registry endpoints a pull would try, in order", kFormatFlags, 1, 1, mirror_explain},
        {"mirror ls", "mirror list", "[OPTIONS]",
         "List registry endpoints with what is remembered of their health", kListFlags, 0, 0, mirror_ls},
        {"mirror test", "", "[OPTIONS] [REGISTRY|REFERENCE]",
         "Ask registry endpoints now, and measure their latency and speed", kListFlags, 0, 1, mirror_test},
        {"image verify", "", "[OPTIONS] IMAGE|REFERENCE",
         "Verify an image's signatures, by keys or by the rule of trust for its name", kVerifyFlags, 1, 1,
         image_verify},
    };
    return kCommands;
}

} // namespace gantry::cli
