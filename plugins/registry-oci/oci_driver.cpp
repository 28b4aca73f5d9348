// Endpoints, their order, health and rights; and the one request function that everything goes through.
#include "oci_driver.h"

#include <boost/json.hpp>

#include <algorithm>

namespace gantry::oci {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kRest = 15 * kSecond;
constexpr int kMaxTagPages = 200;

std::string normal_server(std::string server) {
    if (const size_t scheme = server.find("://"); scheme != std::string::npos) server.erase(0, scheme + 3);
    if (const size_t slash = server.find('/'); slash != std::string::npos) server.resize(slash);
    if (server == "index.docker.io" || server == "registry-1.docker.io" || server == "hub.docker.com")
        return "docker.io";
    return server;
}

/// Control characters and endless HTML pages of a server do not reach terminals and logs.
std::string printable(std::string_view text, size_t limit) {
    std::string out;
    for (const char c : text.substr(0, limit))
        out += static_cast<unsigned char>(c) < ' ' || c == 127 ? ' ' : c;
    return out;
}

std::string server_message(const HttpResponse &response) {
    boost::json::parse_options limits;
    limits.max_depth = 16;
    boost::system::error_code failed;
    const auto document = boost::json::parse(response.body, failed, {}, limits);
    if (failed || !document.is_object()) return {};
    const auto *errors = document.get_object().if_contains("errors");
    if (!errors || !errors->is_array() || errors->get_array().empty()) return {};
    const auto *first = errors->get_array().front().if_object();
    std::string out;
    for (const char *key : {"code", "message"})
        if (const auto *value = first ? first->if_contains(key) : nullptr; value && value->is_string())
            out += (out.empty() ? "" : ": ") + printable(value->get_string(), 200);
    return out;
}

} // namespace

OciDriver::OciDriver(Options options)
    : options_(std::move(options)),
      http_(options_.user_agent, options_.connect_timeout_ns, options_.stall_timeout_ns), auth_(http_) {}

bool OciDriver::handles(const Call &, const RegistryReference &ref) { return !ref.registry.empty(); }

std::vector<Endpoint> OciDriver::endpoints(const std::string &registry) const {
    std::vector<Endpoint> out;
    const auto found = options_.hosts.find(registry);
    static const HostOptions kNone;
    const HostOptions &host = found == options_.hosts.end() ? kNone : found->second;
    const std::string table = "[registry.oci.hosts.\"" + registry + "\"]";
    for (size_t i = 0; i < host.mirrors.size(); ++i) {
        const MirrorOptions &m = host.mirrors[i];
        Endpoint e;
        e.url = m.url;
        e.mirror = true;
        e.resolve_tags = m.resolve_tags;
        e.tls.ca_file = m.ca_file;
        e.tls.skip_verify = m.skip_verify;
        e.username = m.username;
        e.password = m.password;
        e.reason = table + " mirrors[" + std::to_string(i) + "]";
        out.push_back(std::move(e));
    }
    Endpoint origin;
    origin.tls = {host.ca_file, host.client_cert, host.client_key, host.skip_verify};
    origin.reason = found == options_.hosts.end() ? "the registry named in the reference" : table;
    if (!host.url.empty()) {
        origin.url = host.url;
    } else if (host.plain_http) {
        origin.url = "http://" + registry;
    } else if (registry == "docker.io") {
        origin.url = "https://registry-1.docker.io";
    } else {
        origin.url = "https://" + registry;
        if (is_loopback_host(registry)) {
            origin.http_possible = true;
            // Who could answer in its place is root here already; Docker trusts loopback alike.
            if (origin.tls.ca_file.empty()) origin.tls.skip_verify = true;
            std::lock_guard lock(mutex_);
            if (const auto known = scheme_.find(origin.url); known != scheme_.end())
                origin.url = known->second, origin.http_possible = false;
        }
    }
    out.push_back(std::move(origin));
    return out;
}

std::vector<Endpoint> OciDriver::by_health(std::vector<Endpoint> list) const {
    const int64_t now = Call::now_ns();
    std::lock_guard lock(mutex_);
    std::stable_partition(list.begin(), list.end(), [&](const Endpoint &e) {
        const auto h = health_.find(e.url);
        return h == health_.end() || h->second.resting_until_ns <= now;
    });
    return list;
}

void OciDriver::mark_ok(const std::string &url) {
    std::lock_guard lock(mutex_);
    health_[url] = {0, true, {}};
}

void OciDriver::mark_failed(const Failure &failure) {
    // "Not there" and "not allowed" are answers about a repository, not about the endpoint's health.
    if (failure.error_class != ErrorClass::kUnavailable) return;
    std::lock_guard lock(mutex_);
    Health &h = health_[failure.where];
    h.resting_until_ns =
        Call::now_ns() +
        (failure.retry_after_s ? std::min<int64_t>(failure.retry_after_s, 300) * kSecond : kRest);
    h.reason = failure.why;
    std::erase_if(scheme_, [&](const auto &entry) { return entry.second == failure.where; });
}

HttpResponse OciDriver::request(const Call &call, const Endpoint &endpoint, const std::string &registry,
                                const std::string &scope, const std::optional<Credential> &credential,
                                HttpRequest wanted, const std::string &path) {
    EndpointCredential who;
    if (endpoint.mirror)
        who = {endpoint.username, endpoint.password, {}, {}};
    else if (credential && (credential->server.empty() || normal_server(credential->server) == registry))
        who = {credential->username, credential->password, credential->identity_token,
               credential->registry_token};
    std::string base = endpoint.url;
    wanted.tls = endpoint.tls;
    auto perform = [&] {
        wanted.url = base + path;
        wanted.authorization = auth_.known(base, scope, who);
        return http_.perform(call, wanted);
    };
    HttpResponse response;
    try {
        response = perform();
    } catch (const TransportError &https_error) {
        if (!endpoint.http_possible) throw;
        base.replace(0, 8, "http://");
        try {
            response = perform();
        } catch (const TransportError &http_error) {
            throw TransportError("https: " + https_error.message() + "; http: " + http_error.message(),
                                 false);
        }
    }
    if (endpoint.http_possible) {
        std::lock_guard lock(mutex_);
        if (scheme_.size() > 1024) scheme_.clear();
        scheme_[endpoint.url] = base;
    }
    if (response.status != 401) return response;
    wanted.authorization = auth_.answer(call, base, endpoint.tls, scope, who, response);
    wanted.url = base + path;
    return http_.perform(call, wanted);
}

OciDriver::Failure OciDriver::judge(const Endpoint &endpoint, const HttpResponse &response) const {
    Failure f{ErrorClass::kUnavailable, endpoint.url, "HTTP " + std::to_string(response.status), 0};
    if (response.status == 404) f.error_class = ErrorClass::kNotFound;
    if (response.status == 401 || response.status == 403) f.error_class = ErrorClass::kPermissionDenied;
    if (const std::string message = server_message(response); !message.empty()) f.why += " (" + message + ")";
    const std::string after = response.header("retry-after");
    if (!after.empty() && after.size() < 6 && std::all_of(after.begin(), after.end(), ::isdigit))
        f.retry_after_s = std::stol(after);
    return f;
}

Error OciDriver::combined(const std::string &doing, const std::vector<Failure> &failures) {
    std::string message = doing;
    std::set<std::string> said;
    bool all_not_found = !failures.empty(), denied = false, corrupt = !failures.empty();
    for (const Failure &f : failures) {
        all_not_found = all_not_found && f.error_class == ErrorClass::kNotFound;
        denied = denied || f.error_class == ErrorClass::kPermissionDenied;
        corrupt = corrupt && f.error_class == ErrorClass::kDataLoss;
        const std::string line = f.where + ": " + f.why;
        if (said.insert(line).second) message += (said.size() == 1 ? ": " : "; ") + line;
    }
    if (failures.empty()) message += ": no endpoint may answer this";
    if (all_not_found) return {ErrorClass::kNotFound, message};
    if (denied) return {ErrorClass::kPermissionDenied, message, "log in to the registry, or check the name"};
    if (corrupt) return {ErrorClass::kDataLoss, message};
    return {ErrorClass::kUnavailable, message,
            "check the network and [registry.oci.hosts] (mirrors, plain_http, ca_file)"};
}

std::vector<EndpointLine> OciDriver::explain(const Call &, const RegistryReference &ref) {
    std::vector<EndpointLine> out;
    const int64_t now = Call::now_ns();
    for (const Endpoint &e : by_health(endpoints(ref.registry))) {
        EndpointLine line;
        line.url = e.url;
        line.role = e.mirror ? "mirror" : "origin";
        line.reason = e.reason;
        line.can_pull = true;
        line.can_resolve = e.resolve_tags;
        line.can_push = !e.mirror;
        line.state = "unknown";
        std::lock_guard lock(mutex_);
        if (const auto h = health_.find(e.url); h != health_.end()) {
            if (h->second.resting_until_ns > now) {
                line.state =
                    "resting for " + std::to_string((h->second.resting_until_ns - now) / kSecond + 1) + "s";
                line.reason += "; last failure: " + h->second.reason;
            } else if (h->second.seen_ok) {
                line.state = "ok";
            }
        }
        out.push_back(std::move(line));
    }
    return out;
}

std::vector<std::string> OciDriver::tags(const Call &call, const RegistryReference &ref,
                                         const std::optional<Credential> &credential) {
    const std::string doing = "list tags of " + ref.registry + "/" + ref.repository;
    std::vector<Failure> failures;
    for (const Endpoint &e : by_health(endpoints(ref.registry))) {
        if (!e.resolve_tags) continue;
        try {
            std::vector<std::string> out;
            std::string last;
            for (int page = 0; page < kMaxTagPages; ++page) {
                HttpRequest wanted;
                wanted.max_body = 4 << 20;
                const auto response = request(call, e, ref.registry, "repository:" + ref.repository + ":pull",
                                              credential, wanted,
                                              "/v2/" + ref.repository + "/tags/list?n=1000" +
                                                  (last.empty() ? "" : "&last=" + escape_query(last)));
                if (!response.ok()) {
                    failures.push_back(judge(e, response));
                    mark_failed(failures.back());
                    out.clear();
                    break;
                }
                boost::json::parse_options limits;
                limits.max_depth = 8;
                boost::system::error_code failed;
                const auto document = boost::json::parse(response.body, failed, {}, limits);
                const auto *object = failed ? nullptr : document.if_object();
                const auto *list = object ? object->if_contains("tags") : nullptr;
                const size_t before = out.size();
                if (list && list->is_array())
                    for (const auto &tag : list->get_array())
                        if (tag.is_string()) out.emplace_back(tag.get_string());
                if (out.size() == before || response.header("link").empty() || out.back() == last) return out;
                last = out.back();
            }
            if (!out.empty()) return out;
        } catch (const TransportError &error) {
            failures.push_back({ErrorClass::kUnavailable, e.url, error.message(), 0});
            mark_failed(failures.back());
        } catch (const Error &error) {
            if (error.error_class() == ErrorClass::kCancelled || error.error_class() == ErrorClass::kDeadline)
                throw;
            failures.push_back({error.error_class(), e.url, error.message(), 0});
        }
    }
    throw combined(doing, failures);
}

std::string OciDriver::login(const Call &call, const Credential &credential) {
    const std::string registry = credential.server.empty() ? "docker.io" : normal_server(credential.server);
    const Endpoint origin = endpoints(registry).back();
    try {
        const auto response = request(call, origin, registry, "", credential, {}, "/v2/");
        if (response.ok()) return {};
        throw combined("log in to " + registry, {judge(origin, response)});
    } catch (const TransportError &error) {
        throw Error(ErrorClass::kUnavailable, "log in to " + registry + ": " + error.message());
    }
}

} // namespace gantry::oci
