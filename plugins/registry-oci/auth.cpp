// A token is asked for only after a 401 named its realm: registries differ in where their token service
// is, and a cached answer makes every later request of the pull go straight through.
#include "auth.h"

#include <boost/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <functional>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace gantry::oci {
namespace {

constexpr size_t kMaxTokens = 1024;
constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kTokenTimeout = 60 * kSecond;

std::string lower(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
    return out;
}

std::string base64(std::string_view in) {
    static const char kSet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    for (size_t i = 0; i < in.size(); i += 3) {
        uint32_t v = static_cast<unsigned char>(in[i]) << 16;
        if (i + 1 < in.size()) v |= static_cast<unsigned char>(in[i + 1]) << 8;
        if (i + 2 < in.size()) v |= static_cast<unsigned char>(in[i + 2]);
        out += kSet[v >> 18 & 63];
        out += kSet[v >> 12 & 63];
        out += i + 1 < in.size() ? kSet[v >> 6 & 63] : '=';
        out += i + 2 < in.size() ? kSet[v & 63] : '=';
    }
    return out;
}

std::string basic(const EndpointCredential &who) {
    return "Basic " + base64(who.username + ":" + who.password);
}

std::string key_of(const std::string &endpoint, const std::string &scope, const EndpointCredential &who) {
    return endpoint + '\n' + scope + '\n' + who.username + '\n' + who.password + '\n' + who.identity_token;
}

/// RFC 9110 section 11.6.1: scheme, then name=token or name="quoted" separated by commas.
std::optional<Challenge> parse_one(std::string_view text) {
    const size_t space = text.find(' ');
    Challenge out;
    out.scheme = lower(text.substr(0, space));
    if (out.scheme != "bearer" && out.scheme != "basic") return std::nullopt;
    size_t i = space == std::string_view::npos ? text.size() : space;
    while (i < text.size()) {
        while (i < text.size() && (text[i] == ' ' || text[i] == ',' || text[i] == '\t'))
            ++i;
        const size_t equals = text.find('=', i);
        if (equals == std::string_view::npos) break;
        const std::string name = lower(text.substr(i, equals - i));
        std::string value;
        i = equals + 1;
        if (i < text.size() && text[i] == '"') {
            for (++i; i < text.size() && text[i] != '"'; ++i) {
                if (text[i] == '\\' && i + 1 < text.size()) ++i;
                value += text[i];
            }
            ++i;
        } else {
            while (i < text.size() && text[i] != ',')
                value += text[i++];
        }
        if (name == "realm") out.realm = value;
        if (name == "service") out.service = value;
        if (name == "scope") out.scope = value;
    }
    return out;
}

bool is_header_text(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 127; });
}

} // namespace

std::optional<Challenge> parse_challenge(const HttpResponse &response) {
    std::optional<Challenge> best;
    for (const auto &[name, value] : response.headers) {
        if (name != "www-authenticate") continue;
        auto one = parse_one(value);
        if (one && (!best || (best->scheme == "basic" && one->scheme == "bearer"))) best = one;
    }
    return best;
}

/// One call asks, the others wait for its end.
struct Authenticator::Flight {
    Flight() : event(::eventfd(0, EFD_CLOEXEC)) {
        if (event < 0) throw Error::from_errno(errno, "make an event");
    }
    ~Flight() { ::close(event); }
    Flight(const Flight &) = delete;
    Flight &operator=(const Flight &) = delete;

    /// Returns when the token was stored or its asker gave up; throws what it met, and when `call` is over.
    void wait(const Call &call) {
        pollfd ends[] = {{event, POLLIN, 0}, {call.cancel_fd(), POLLIN, 0}};
        while (::poll(ends, 2, call.remaining_ms()) < 0 && errno == EINTR) {
        }
        if (ends[0].revents == 0) call.check("wait for a token");
        if (ends[0].revents != 0 && failed) std::rethrow_exception(failed);
    }
    void end(std::exception_ptr with) {
        failed = std::move(with);
        const uint64_t one = 1; // stays readable for all
        if (::write(event, &one, sizeof one) < 0) std::abort();
    }

    const int event;
    std::exception_ptr failed; // written before the event
};

std::string Authenticator::known(const std::string &endpoint, const std::string &scope,
                                 const EndpointCredential &who) {
    if (!who.registry_token.empty()) return "Bearer " + who.registry_token;
    std::lock_guard lock(mutex_);
    const auto found = tokens_.find(key_of(endpoint, scope, who));
    if (found == tokens_.end()) return {};
    if (found->second.expires_ns < Call::now_ns()) {
        tokens_.erase(found);
        return {};
    }
    return found->second.value;
}

void Authenticator::keep(const std::string &key, const Token &token) {
    std::lock_guard lock(mutex_);
    if (tokens_.size() >= kMaxTokens) tokens_.clear();
    tokens_[key] = token;
}

std::string Authenticator::answer(const Call &call, const Route &route, const std::string &scope,
                                  const EndpointCredential &who, const HttpResponse &unauthorized,
                                  const std::string &shown) {
    const std::string key = key_of(route.base, scope, who);
    std::shared_ptr<Flight> flight;
    while (!flight) {
        std::shared_ptr<Flight> other;
        {
            std::lock_guard lock(mutex_);
            // Another transfer may have renewed it meanwhile; else it is worthless, however long it claimed.
            const auto found = tokens_.find(key);
            if (found != tokens_.end() && found->second.value != shown) return found->second.value;
            if (found != tokens_.end()) tokens_.erase(found);
            auto &current = flights_[key];
            if (current) {
                other = current;
            } else {
                current = flight = std::make_shared<Flight>();
            }
        }
        if (other) other->wait(call);
    }
    const auto land = [&](std::exception_ptr failed) {
        std::lock_guard lock(mutex_);
        flights_.erase(key);
        flight->end(std::move(failed));
    };
    try {
        std::string value = ask(call, route, scope, who, unauthorized, key);
        land(nullptr);
        return value;
    } catch (const Error &error) {
        // Who gave up speaks for himself alone.
        const bool own =
            error.error_class() == ErrorClass::kCancelled || error.error_class() == ErrorClass::kDeadline;
        land(own ? nullptr : std::current_exception());
        throw;
    } catch (...) {
        land(nullptr);
        throw;
    }
}

std::string Authenticator::ask(const Call &call, const Route &route, const std::string &scope,
                               const EndpointCredential &who, const HttpResponse &unauthorized,
                               const std::string &key) {
    const auto challenge = parse_challenge(unauthorized);
    if (!challenge)
        throw Error(ErrorClass::kPermissionDenied, "HTTP 401 without a challenge that gantry understands");
    Token token;
    if (challenge->scheme == "basic") {
        if (who.username.empty()) throw Error(ErrorClass::kPermissionDenied, "no basic auth credentials");
        token = {basic(who), Call::now_ns() + 3600 * kSecond};
    } else {
        Challenge wanted = *challenge;
        // A push asks first what is there, and its next requests need more than that answer's challenge says.
        if (wanted.scope.empty() || scope.find(",push") != std::string::npos) wanted.scope = scope;
        const Answer got = fetch_token(call, route, wanted, who, false);
        token.value = "Bearer " + got.token;
        // Ten seconds early: the token must still be good when the request arrives.
        token.expires_ns = Call::now_ns() + std::max<int64_t>(1, got.lifetime_s - 10) * kSecond;
    }
    keep(key, token);
    return token.value;
}

std::string Authenticator::answer_login(const Call &call, const Route &route, const EndpointCredential &who,
                                        const HttpResponse &unauthorized, std::string &authorization) {
    const auto challenge = parse_challenge(unauthorized);
    if (!challenge || challenge->scheme == "basic") {
        authorization = answer(call, route, "", who, unauthorized);
        return {};
    }
    const Answer got = fetch_token(call, route, *challenge, who, true);
    authorization = "Bearer " + got.token;
    return got.refresh_token;
}

Authenticator::Answer Authenticator::fetch_token(const Call &call, const Route &route,
                                                 const Challenge &challenge, const EndpointCredential &who,
                                                 bool offline) {
    const std::string &realm = challenge.realm;
    if (!realm.starts_with("https://") && !realm.starts_with("http://"))
        throw Error(ErrorClass::kPermissionDenied, "the challenge names no token service");
    if (route.base.starts_with("https://") && !realm.starts_with("https://"))
        throw Error(ErrorClass::kPermissionDenied,
                    "the registry speaks https but its token service " + realm + " does not");
    HttpRequest request;
    request.url = realm;
    request.tls = route.tls;
    request.proxy = route.proxy;
    request.timeout_ns = kTokenTimeout;
    if (origin_of(realm) != origin_of(route.base)) { // client certificates are for the endpoint alone
        request.tls.client_cert.clear();
        request.tls.client_key.clear();
    }
    request.headers.push_back("Accept: application/json");
    const std::string rotation = route.base + '\n' + who.identity_token;
    if (!who.identity_token.empty()) { // the OAuth2 form, docs.docker.com/reference/api/registry/auth
        std::string refresh = who.identity_token;
        {
            std::lock_guard lock(mutex_);
            if (const auto newer = rotated_.find(rotation); newer != rotated_.end()) refresh = newer->second;
        }
        request.form =
            "grant_type=refresh_token&client_id=gantry&service=" + escape_query(challenge.service) +
            "&scope=" + escape_query(challenge.scope) + "&refresh_token=" + escape_query(refresh);
    } else {
        request.url += (realm.find('?') == std::string::npos ? "?" : "&") +
                       ("service=" + escape_query(challenge.service));
        for (size_t at = 0; at < challenge.scope.size();) { // once for each
            const size_t end = std::min(challenge.scope.find(' ', at), challenge.scope.size());
            if (end > at) request.url += "&scope=" + escape_query(challenge.scope.substr(at, end - at));
            at = end + 1;
        }
        if (!who.username.empty()) {
            request.url += "&account=" + escape_query(who.username);
            request.authorization = basic(who);
        }
        if (offline) request.url += "&offline_token=true&client_id=gantry";
    }
    const HttpResponse response = http_.perform(call, request);
    if (response.status == 401 || response.status == 403)
        throw Error(ErrorClass::kPermissionDenied, "the token service " + origin_of(realm) +
                                                       " refused the credentials (HTTP " +
                                                       std::to_string(response.status) + ")");
    if (!response.ok())
        throw Error(ErrorClass::kUnavailable, "the token service " + origin_of(realm) + " answered HTTP " +
                                                  std::to_string(response.status));
    boost::json::parse_options limits;
    limits.max_depth = 16;
    boost::system::error_code failed;
    const auto document = boost::json::parse(response.body, failed, {}, limits);
    const boost::json::object *object = failed ? nullptr : document.if_object();
    const auto text = [&](const char *name) {
        const auto *value = object ? object->if_contains(name) : nullptr;
        return value && value->is_string() ? std::string(value->get_string()) : "";
    };
    Answer out;
    out.token = text("token");
    if (out.token.empty()) out.token = text("access_token");
    if (out.token.empty() || !is_header_text(out.token))
        throw Error(ErrorClass::kUnavailable, "the token service " + origin_of(realm) + " gave no token");
    if (const auto *value = object->if_contains("expires_in"); value && value->is_int64())
        out.lifetime_s = std::clamp<int64_t>(value->get_int64(), 1, 86400);
    out.refresh_token = text("refresh_token");
    if (!out.refresh_token.empty() && !who.identity_token.empty()) {
        std::lock_guard lock(mutex_);
        if (rotated_.size() >= kMaxTokens) rotated_.clear();
        rotated_[rotation] = out.refresh_token;
    }
    return out;
}

} // namespace gantry::oci
