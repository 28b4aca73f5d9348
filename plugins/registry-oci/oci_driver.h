// The "oci" registry driver: OCI distribution over HTTP with mirrors for any registry.
//
// Endpoints are tried in order: the mirrors of the registry, then the registry itself. An endpoint that
// failed rests for a while, which only moves it to the end: a wrong guess never makes a pull impossible.
// Tokens and passwords are tied to the endpoint they were made for.
#pragma once

#include "auth.h"
#include "http.h"
#include "options.h"

#include <gantry/registry.hpp>

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace gantry::oci {

struct Endpoint {
    std::string url; // base: scheme://host[:port][/path]
    bool mirror = false, resolve_tags = true;
    bool http_possible = false; // loopback: plain http when https does not answer
    TlsSettings tls;
    std::string username, password; // of a mirror
    std::string reason;
};

class OciDriver : public RegistryDriver {
  public:
    explicit OciDriver(Options options);

    bool handles(const Call &call, const RegistryReference &ref) override;
    Descriptor resolve(const Call &call, const RegistryReference &ref,
                       const std::optional<Credential> &credential, std::string *body) override;
    void fetch(const Call &call, const Fetch &fetch, const BlobSink &sink) override;
    std::vector<std::string> tags(const Call &call, const RegistryReference &ref,
                                  const std::optional<Credential> &credential) override;
    std::vector<EndpointLine> explain(const Call &call, const RegistryReference &ref) override;
    std::string login(const Call &call, const Credential &credential) override;

  private:
    struct Health {
        int64_t resting_until_ns = 0;
        bool seen_ok = false;
        std::string reason;
    };
    struct Failure {
        ErrorClass error_class;
        std::string where, why;
        int64_t retry_after_s = 0;
    };

    std::vector<Endpoint> endpoints(const std::string &registry) const;
    std::vector<Endpoint> by_health(std::vector<Endpoint> list) const;
    /// One request with authorisation and the loopback scheme choice; throws as HttpClient does.
    HttpResponse request(const Call &call, const Endpoint &endpoint, const std::string &registry,
                         const std::string &scope, const std::optional<Credential> &credential,
                         HttpRequest wanted, const std::string &path);
    void mark_ok(const std::string &url);
    void mark_failed(const Failure &failure);
    Failure judge(const Endpoint &endpoint, const HttpResponse &response) const;
    static Error combined(const std::string &doing, const std::vector<Failure> &failures);

    Options options_;
    HttpClient http_;
    Authenticator auth_;
    mutable std::mutex mutex_;
    std::map<std::string, Health> health_;
    std::map<std::string, std::string> scheme_; // loopback endpoint URL -> the one that answers
};

} // namespace gantry::oci
