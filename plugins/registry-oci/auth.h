// Registry authentication: WWW-Authenticate challenges, Basic, and bearer tokens with their cache.
#pragma once

#include "http.h"

#include <gantry/registry.hpp>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace gantry::oci {

struct Challenge {
    std::string scheme; // "bearer" or "basic", lower case
    std::string realm, service, scope;
};
/// The strongest usable challenge of an answer: Bearer before Basic. nullopt when there is none.
std::optional<Challenge> parse_challenge(const HttpResponse &response);

/// What may be shown to one endpoint. All empty: anonymous.
struct EndpointCredential {
    std::string username, password, identity_token, registry_token;
    bool empty() const {
        return username.empty() && password.empty() && identity_token.empty() && registry_token.empty();
    }
};

/// The endpoint that is spoken to, and the way there.
struct Route {
    std::string base; // its URL
    TlsSettings tls;
    ProxySettings proxy;
};

/// Thread-safe. Values are kept by endpoint, scope and identity; never shared between endpoints.
class Authenticator {
  public:
    explicit Authenticator(HttpClient &http) : http_(http) {}

    /// Header value known to work, or "".
    std::string known(const std::string &endpoint, const std::string &scope, const EndpointCredential &who);
    /// Answers a 401 of that endpoint itself to a request that showed `shown` ("" nothing). Calls that need
    /// the same token at once ask for it once. Throws kPermissionDenied when the credentials cannot satisfy
    /// it.
    std::string answer(const Call &call, const Route &route, const std::string &scope,
                       const EndpointCredential &who, const HttpResponse &unauthorized,
                       const std::string &shown = {});
    /// As answer, for a login: asks the token service for a refresh token too, and returns it or "".
    std::string answer_login(const Call &call, const Route &route, const EndpointCredential &who,
                             const HttpResponse &unauthorized, std::string &authorization);

  private:
    struct Token {
        std::string value;
        int64_t expires_ns = 0; // CLOCK_MONOTONIC
    };
    struct Answer {
        std::string token, refresh_token;
        int64_t lifetime_s = 60; // what the token specification gives when none is told
    };
    Answer fetch_token(const Call &call, const Route &route, const Challenge &challenge,
                       const EndpointCredential &who, bool offline);
    struct Flight;
    std::string ask(const Call &call, const Route &route, const std::string &scope,
                    const EndpointCredential &who, const HttpResponse &unauthorized, const std::string &key);
    void keep(const std::string &key, const Token &token);

    HttpClient &http_;
    std::mutex mutex_;
    std::map<std::string, Token> tokens_;
    std::map<std::string, std::shared_ptr<Flight>> flights_; // tokens that are being asked for
    std::map<std::string, std::string> rotated_;             // endpoint and identity token -> its successor
};

} // namespace gantry::oci
