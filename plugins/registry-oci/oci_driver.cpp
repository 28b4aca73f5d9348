// The one request function that everything goes through, what its answers mean, and what is kept of them.
#include "oci_driver.h"

#include "credentials.h"

#include <boost/json.hpp>

#include <algorithm>

namespace gantry::oci {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kSaveAgain = 60 * kSecond;
constexpr int64_t kSmallAnswer = 120 * kSecond; // a list of tags, a ping

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

OciDriver::OciDriver(Options options, HealthStore store, const Health::Settings &health)
    : options_(std::move(options)), table_(options_),
      http_(options_.user_agent, options_.connect_timeout_ns, options_.stall_timeout_ns, options_.http2),
      auth_(http_), health_({options_.rest_ns, options_.max_rest_ns, health.now, health.random}),
      store_(std::move(store)) {}

bool OciDriver::handles(const Call &, const RegistryReference &ref) { return !ref.registry.empty(); }

std::vector<Endpoint> OciDriver::endpoints(const std::string &registry) const {
    auto out = table_.list(registry);
    std::lock_guard lock(mutex_);
    for (Endpoint &e : out)
        if (const auto known = scheme_.find(e.url); e.http_possible && known != scheme_.end())
            e.url = known->second, e.http_possible = false;
    return out;
}

std::vector<Endpoint> OciDriver::chosen(const std::string &registry, Purpose purpose, uint64_t size,
                                        bool explore) {
    return choose(endpoints(registry), table_.host(registry), purpose, size, health_, explore);
}

std::string OciDriver::spoken_url(const Endpoint &endpoint) const {
    if (!endpoint.http_possible) return endpoint.url;
    std::lock_guard lock(mutex_);
    const auto known = scheme_.find(endpoint.url);
    return known == scheme_.end() ? endpoint.url : known->second;
}

void OciDriver::mark_ok(const std::string &url) { health_.succeeded(url); }

void OciDriver::mark_failed(const Failure &failure) {
    // "Not there" and "not allowed" are answers about a repository, not about the endpoint's health.
    if (failure.error_class != ErrorClass::kUnavailable) return;
    health_.failed(failure.where, Fault::kFailed, failure.why, failure.retry_after_s * kSecond);
    std::lock_guard lock(mutex_);
    std::erase_if(scheme_, [&](const auto &entry) { return entry.second == failure.where; });
}

HttpResponse OciDriver::request(const Call &call, const Endpoint &endpoint, const std::string &registry,
                                const std::string &scope, const std::optional<Credential> &credential,
                                HttpRequest wanted, const std::string &path) {
    const EndpointCredential who = endpoint.registry == registry
                                       ? credential_for(endpoint, credential, options_.auth_file)
                                       : EndpointCredential{};
    std::string base = spoken_url(endpoint);
    bool begun = false; // bytes were handed over: asking again is the caller's business
    wanted.tls = endpoint.tls;
    wanted.proxy = endpoint.proxy;
    if (wanted.sink)
        wanted.sink = [&begun, sink = std::move(wanted.sink)](const HttpResponse &head, const void *data,
                                                              size_t size) {
            begun = true;
            return sink(head, data, size);
        };
    auto perform = [&] {
        wanted.url = base + path;
        return http_.perform(call, wanted);
    };
    HttpResponse response;
    try {
        wanted.authorization = auth_.known(base, scope, who);
        response = perform();
    } catch (const TransportError &https_error) {
        if (!endpoint.http_possible || begun || !base.starts_with("https://")) throw;
        base.replace(0, 8, "http://");
        remember_scheme(endpoint.url, base); // before its first byte, which names the endpoint
        try {
            wanted.authorization = auth_.known(base, scope, who);
            response = perform();
        } catch (const TransportError &http_error) {
            remember_scheme(endpoint.url, "");
            throw TransportError("https: " + https_error.message() + "; http: " + http_error.message(), false,
                                 https_error.may_pass || http_error.may_pass);
        }
    }
    if (endpoint.http_possible) remember_scheme(endpoint.url, base);
    // A challenge of whoever a redirect led to is none of ours.
    if (response.status != 401 || origin_of(response.url) != origin_of(base)) return response;
    const std::string shown = wanted.authorization;
    wanted.authorization =
        auth_.answer(call, {base, endpoint.tls, endpoint.proxy}, scope, who, response, shown);
    return perform();
}

void OciDriver::remember_scheme(const std::string &url, const std::string &spoken) {
    std::lock_guard lock(mutex_);
    if (scheme_.size() > 1024) scheme_.clear();
    if (spoken.empty())
        scheme_.erase(url);
    else
        scheme_[url] = spoken;
}

OciDriver::Failure OciDriver::judge(const Endpoint &endpoint, const HttpResponse &response) const {
    Failure f{ErrorClass::kUnavailable, spoken_url(endpoint), "HTTP " + std::to_string(response.status), 0};
    const std::string from = origin_of(response.url);
    const bool redirected = !response.url.empty() && from != origin_of(f.where);
    if (redirected) f.why += " from " + from + " where it sends its clients";
    if (response.status == 407) f.why += ", the proxy wants a login (user and password in the proxy's URL)";
    if (response.status == 404) f.error_class = ErrorClass::kNotFound;
    // Elsewhere it is the signature in the URL that has expired: the registry makes a new one.
    if ((response.status == 401 || response.status == 403) && !redirected)
        f.error_class = ErrorClass::kPermissionDenied;
    if (const std::string message = server_message(response); !message.empty()) f.why += " (" + message + ")";
    if (f.error_class == ErrorClass::kUnavailable)
        f.retry_after_s = parse_retry_after(response.header("retry-after"), health_.now() / kSecond);
    return f;
}

std::optional<OciDriver::Failure> OciDriver::waiting(const Endpoint &endpoint) const {
    const std::string url = spoken_url(endpoint);
    const int64_t wait = health_.wait_ns(url);
    if (wait == 0) return std::nullopt;
    const HealthRecord r = health_.get(url);
    return Failure{ErrorClass::kUnavailable, url,
                   "asked to be left alone for another " + std::to_string(wait / kSecond + 1) + " s" +
                       (r.reason.empty() ? "" : " (" + r.reason + ")"),
                   0};
}

void OciDriver::load_health(const Call &call) {
    {
        std::lock_guard lock(mutex_);
        if (loaded_) return;
        loaded_ = true;
    }
    try {
        if (store_.load) health_.from_json(store_.load(call));
    } catch (const Error &error) { // a driver without memory works too
        call.log(GANTRY_LOG_WARN,
                 ("read the remembered health of registry endpoints: " + error.message()).c_str());
    }
}

void OciDriver::save_health(const Call &call) noexcept {
    try {
        if (!store_.save) return;
        const uint64_t changes = health_.changes(), urgent = health_.urgent_changes();
        {
            std::lock_guard lock(mutex_);
            const int64_t age = Call::now_ns() - saved_ns_;
            if (saved_ns_ != 0 && age < kSecond) return; // a storm of failures is one write a second
            if (urgent == saved_urgent_ && (changes == saved_changes_ || age < kSaveAgain)) return;
            saved_changes_ = changes;
            saved_urgent_ = urgent;
            saved_ns_ = Call::now_ns();
        }
        store_.save(call, health_.to_json());
    } catch (...) { // cancelled, most likely; the next operation stores it
        std::lock_guard lock(mutex_);
        saved_urgent_ = 0;
    }
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

std::string OciDriver::login(const Call &call, const Credential &credential) {
    const std::string registry = credential.server.empty() ? "docker.io" : normal_server(credential.server);
    const std::string doing = "log in to " + registry;
    table_.check_allowed(doing, registry, "");
    const Endpoint origin = endpoints(registry).back();
    try {
        HttpRequest wanted;
        wanted.timeout_ns = kSmallAnswer;
        const EndpointCredential who{credential.username, credential.password, credential.identity_token,
                                     credential.registry_token};
        // Without credentials first: the challenge decides how they are shown, and to whom.
        wanted.tls = origin.tls;
        wanted.proxy = origin.proxy;
        std::string base = spoken_url(origin);
        wanted.url = base + "/v2/";
        HttpResponse response;
        try {
            response = http_.perform(call, wanted);
        } catch (const TransportError &) {
            if (!origin.http_possible || !base.starts_with("https://")) throw;
            wanted.url = base.replace(0, 8, "http://") + "/v2/";
            response = http_.perform(call, wanted);
            remember_scheme(origin.url, base);
        }
        std::string token;
        if (response.status == 401 && origin_of(response.url) == origin_of(base)) {
            token = auth_.answer_login(call, {base, origin.tls, origin.proxy}, who, response,
                                       wanted.authorization);
            response = http_.perform(call, wanted);
        }
        if (response.ok()) return token;
        throw combined(doing, {judge(origin, response)});
    } catch (const TransportError &error) {
        throw Error(ErrorClass::kUnavailable, doing + ": " + error.message());
    }
}

} // namespace gantry::oci
