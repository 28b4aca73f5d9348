// The registry driver as a C++ class. Semantics of each call: <gantry/registry.h>.
#pragma once

#include <gantry/call.hpp>
#include <gantry/registry.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace gantry {

/// Completed reference: registry "docker.io", repository "library/nginx", tag and/or digest.
struct RegistryReference {
    std::string registry, repository, tag, digest;
};

struct Credential {
    std::string server, username, password, identity_token, registry_token;
};

struct Descriptor {
    std::string media_type;
    std::string digest;
    uint64_t size = 0;
    std::string endpoint; // who answered
};

struct Fetch {
    RegistryReference from;
    Descriptor descriptor;
    uint64_t offset = 0;
    uint64_t length = 0; // 0: to the end
    std::vector<std::string> avoid;
    std::optional<Credential> credential;
    bool is_manifest = false;
};

/// Receives (endpoint, offset of the first byte, data, size); throws to stop.
using BlobSink = std::function<void(const std::string &, uint64_t, const void *, size_t)>;
/// Fills the buffer from an offset; returns the bytes given, 0 at the end.
using BlobSource = std::function<size_t(uint64_t, void *, size_t)>;

struct Push {
    RegistryReference to;
    Descriptor descriptor;
    std::optional<Credential> credential;
    std::string mount_from;
    bool is_manifest = false;
};

struct EndpointLine {
    std::string url, role, state, reason;
    bool can_pull = false, can_resolve = false, can_push = false;
    std::string registry = {}; // whose endpoint it is; "": as asked
    int64_t latency_ns = -1;   // -1: unknown
    uint64_t bytes_per_second = 0, bytes_served = 0;
    uint32_t successes = 0, failures = 0;
    int64_t resting_ns = 0;
};

struct SearchResult {
    std::string name, description;
    int stars = 0;
    bool official = false, automated = false;
};

class RegistryDriver {
  public:
    virtual ~RegistryDriver() = default;
    virtual bool handles(const Call &call, const RegistryReference &ref) = 0;
    /// `body` (may be null) receives the manifest's bytes, at most 4 MiB.
    virtual Descriptor resolve(const Call &call, const RegistryReference &ref,
                               const std::optional<Credential> &credential, std::string *body) = 0;
    virtual void fetch(const Call &call, const Fetch &fetch, const BlobSink &sink) = 0;
    virtual void push(const Call &, const Push &, const BlobSource &) {
        throw Error(ErrorClass::kUnsupported, "push: this registry driver is read-only");
    }
    virtual std::vector<std::string> tags(const Call &, const RegistryReference &,
                                          const std::optional<Credential> &) {
        throw Error(ErrorClass::kUnsupported, "list tags: this registry driver cannot");
    }
    virtual std::vector<SearchResult> search(const Call &, const std::string & /*registry*/,
                                             const std::string & /*term*/, uint32_t /*limit*/,
                                             const std::optional<Credential> &) {
        throw Error(ErrorClass::kUnsupported, "search: this registry driver cannot");
    }
    virtual std::vector<EndpointLine> explain(const Call &call, const RegistryReference &ref) = 0;
    virtual std::string login(const Call &, const Credential &) {
        throw Error(ErrorClass::kUnsupported, "log in: this registry driver cannot");
    }
    virtual std::string referrers(const Call &, const RegistryReference &,
                                  const std::string & /*artifact_type*/, const std::optional<Credential> &) {
        throw Error(ErrorClass::kUnsupported, "list referrers: this registry driver cannot");
    }
    virtual std::vector<EndpointLine> status(const Call &) { return {}; }
    virtual std::vector<EndpointLine> test(const Call &, const RegistryReference &,
                                           const std::optional<Credential> &) {
        throw Error(ErrorClass::kUnsupported, "test endpoints: this registry driver cannot");
    }
};

} // namespace gantry
