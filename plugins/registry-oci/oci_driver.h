// The "oci" registry driver: OCI distribution over HTTP with mirrors for any registry.
//
// endpoints.h says which endpoints there are, choice.h in which order they are asked, health.h what is
// remembered of them; credentials and tokens are tied to the endpoint they were made for.
#pragma once

#include "auth.h"
#include "choice.h"
#include "endpoints.h"
#include "health.h"
#include "http.h"
#include "options.h"

#include <gantry/registry.hpp>

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace gantry::oci {

/// Where the health of endpoints is kept between runs; both may be empty. May throw.
struct HealthStore {
    std::function<std::string(const Call &)> load; // "" when there is none
    std::function<void(const Call &, const std::string &)> save;
};

class OciDriver : public RegistryDriver {
  public:
    explicit OciDriver(Options options, HealthStore store = {}, const Health::Settings &health = {});

    bool handles(const Call &call, const RegistryReference &ref) override;
    Descriptor resolve(const Call &call, const RegistryReference &ref,
                       const std::optional<Credential> &credential, std::string *body) override;
    void fetch(const Call &call, const Fetch &fetch, const BlobSink &sink) override;
    std::vector<std::string> tags(const Call &call, const RegistryReference &ref,
                                  const std::optional<Credential> &credential) override;
    void push(const Call &call, const Push &push, const BlobSource &source) override;
    std::vector<SearchResult> search(const Call &call, const std::string &registry, const std::string &term,
                                     uint32_t limit, const std::optional<Credential> &credential) override;
    std::string referrers(const Call &call, const RegistryReference &ref, const std::string &artifact_type,
                          const std::optional<Credential> &credential) override;
    std::vector<EndpointLine> explain(const Call &call, const RegistryReference &ref) override;
    std::vector<EndpointLine> status(const Call &call) override;
    std::vector<EndpointLine> test(const Call &call, const RegistryReference &ref,
                                   const std::optional<Credential> &credential) override;
    std::string login(const Call &call, const Credential &credential) override;

  private:
    class Download; // one fetch, oci_fetch.cpp
    class Upload;   // one push, oci_push.cpp
    struct Failure {
        ErrorClass error_class;
        std::string where, why;
        int64_t retry_after_s = 0;
    };

    /// All of a registry, as configured; loopback ones with the scheme that is known to answer.
    std::vector<Endpoint> endpoints(const std::string &registry) const;
    /// Those with the right, in the order in which they are asked.
    std::vector<Endpoint> chosen(const std::string &registry, Purpose purpose, uint64_t size, bool explore);
    /// The endpoint's URL with the scheme that it turned out to speak.
    std::string spoken_url(const Endpoint &endpoint) const;
    /// One request with authorisation and the loopback scheme choice; throws as HttpClient does.
    HttpResponse request(const Call &call, const Endpoint &endpoint, const std::string &registry,
                         const std::string &scope, const std::optional<Credential> &credential,
                         HttpRequest wanted, const std::string &path);
    void remember_scheme(const std::string &url, const std::string &spoken); // "" forgets
    /// Where pushes of a registry go. Throws kPermissionDenied when nobody has the right.
    Endpoint push_endpoint(const std::string &registry) const;
    /// GETs a list page by page as Link headers lead, on this endpoint alone; `page` may end it with false.
    void list_pages(const Call &call, const Endpoint &endpoint, const std::string &registry,
                    const std::string &scope, const std::optional<Credential> &credential,
                    const std::string &path, const std::function<bool(const HttpResponse &)> &page);
    void mark_ok(const std::string &url);
    void mark_failed(const Failure &failure);
    Failure judge(const Endpoint &endpoint, const HttpResponse &response) const;
    /// The endpoint asked to be left alone and that time is not over; said as a failure.
    std::optional<Failure> waiting(const Endpoint &endpoint) const;
    static Error combined(const std::string &doing, const std::vector<Failure> &failures);
    EndpointLine line_of(const Endpoint &endpoint) const;
    /// Asks one endpoint now; throws only when cancelled.
    EndpointLine measure(const Call &call, const Endpoint &endpoint, const RegistryReference &ref,
                         const std::optional<Credential> &credential);

    void load_health(const Call &call);
    /// Stores what was learnt, at once when a rest began or ended. Never throws.
    void save_health(const Call &call) noexcept;
    struct HealthScope { // around every operation
        OciDriver &driver;
        const Call &call;
        HealthScope(OciDriver &d, const Call &c) : driver(d), call(c) { d.load_health(c); }
        ~HealthScope() { driver.save_health(call); }
    };

    Options options_;
    EndpointTable table_;
    HttpClient http_;
    Authenticator auth_;
    Health health_;
    HealthStore store_;
    std::mutex choice_mutex_; // choosing and counting the transfer are one step

    mutable std::mutex mutex_;
    std::map<std::string, std::string> scheme_; // loopback endpoint URL -> the one that answers
    bool loaded_ = false;
    uint64_t saved_changes_ = 0, saved_urgent_ = 0;
    int64_t saved_ns_ = 0;
};

/// Throws kInvalidArgument for what does not belong into a URL's path.
void check_path_part(const std::string &text, const char *what);
/// Sleeps for a random time between the two, ends early by throwing when cancelled.
void wait_or_cancel(const Call &call, int64_t min_ms, int64_t max_ms, const std::string &doing);
/// Whole seconds until the time that a Retry-After names (seconds or an HTTP date); 0 for none.
int64_t parse_retry_after(const std::string &value, int64_t now_s);

} // namespace gantry::oci
