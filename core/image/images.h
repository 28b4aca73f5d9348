// Images: names, manifests, pull, import, removal.
#pragma once

#include "core/base/cancel.h"
#include "core/config/config.h"

#include <gantry/registry.hpp>
#include <gantry/storage.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace gantry {

class ContentStore;
class Db;
class Events;
class Layers;
class TrustPolicy;
struct TrustReport;

/// A parsed reference. familiar() is what Docker shows: "nginx:1.25" for docker.io/library/nginx:1.25.
struct ImageReference {
    std::string registry, repository, tag, digest;
    std::string familiar_name() const; // without tag and digest
    std::string familiar() const;
    std::string full() const;
};
/// "nginx", "user/x:tag", "host:5000/a/b@sha256:...". Adds docker.io, library/ and, when `default_tag`,
/// ":latest". Throws kInvalidArgument "invalid reference format".
ImageReference parse_reference(const std::string &text, const std::string &default_registry,
                               bool default_tag);
/// What people wrote: names without a registry are looked up among the short names first.
ImageReference parse_reference(const std::string &text, const RegistryConfig &config, bool default_tag);

struct HealthcheckConfig {
    std::vector<std::string> test;
    int64_t interval_ns = 0, timeout_ns = 0, start_period_ns = 0, start_interval_ns = 0;
    int retries = 0;
};

/// What a container takes from its image.
struct ImageConfig {
    std::string user, working_dir, stop_signal, architecture, os;
    std::vector<std::string> env, entrypoint, cmd, shell;
    std::map<std::string, std::string> labels;
    std::vector<std::string> exposed_ports; // "80/tcp"
    std::vector<std::string> volumes;
    std::optional<HealthcheckConfig> healthcheck;
};

struct ImageInfo {
    std::string id;                     // "sha256:..." of the config
    std::string manifest;               // digest
    std::vector<std::string> repo_tags; // familiar
    std::vector<std::string> repo_digests;
    std::string parent, comment, author, docker_version, os, architecture, variant;
    std::string config_json; // the whole OCI/Docker config document as stored
    std::vector<std::string> diff_ids;
    std::string top_layer; // layer id
    int64_t created_ns = 0, tagged_ns = 0;
    uint64_t size = 0;
    ImageConfig config;
};

struct HistoryEntry {
    std::string id, created_by, comment;
    int64_t created_ns = 0;
    uint64_t size = 0;
    std::vector<std::string> tags;
};

/// One step of a pull, in Docker's words.
struct PullProgress {
    std::string id;     // short layer digest or tag; "" for overall lines
    std::string status; // "Pulling fs layer", "Downloading", "Extracting", "Pull complete", ...
    uint64_t current = 0, total = 0;
    std::vector<std::pair<std::string, uint64_t>> sources = {}; // endpoints and the bytes each gave
};
using PullSink = std::function<void(const PullProgress &)>;

struct PushedTag {
    std::string tag, digest; // of the manifest
    uint64_t size = 0;       // bytes of the manifest
};

struct Deleted {
    std::string untagged, deleted; // one of both
};

/// What a pull that has not ended brought, and the next one goes on with.
struct InterruptedDownload {
    std::string digest;             // of a blob, or chain ID of a finished layer
    uint64_t present = 0, size = 0; // bytes; size 0: not known
    uint64_t disk = 0;              // bytes it takes
    int64_t changed_ns = 0;         // wall clock
    bool active = false;            // a pull is bringing it now
    bool layer = false;
};

/// docker commit, as seen from the image.
struct ImageCommit {
    std::string parent;                    // image id of the container's image; "" for none
    std::string layer;                     // the container's own
    std::vector<Change> changes;           // of that layer, without what the engine itself put there
    std::string config;                    // the container's "Config" object, Docker's JSON
    std::string overrides;                 // the same dialect; what is set there replaces it. "" for none
    std::vector<std::string> instructions; // Dockerfile lines, applied last
    std::string author, comment, created_by;
    std::optional<ImageReference> ref;
};

/// gantry image verify.
struct ImageVerification {
    std::string name;                                           // an image that is here, or a reference
    std::vector<std::pair<std::string, std::string>> keys = {}; // name and PEM; none: those of the rule
    TrustMatch match = TrustMatch::kRepository;                 // with keys
    std::optional<Credential> credential = {};
};

/// Thread-safe.
class Images {
  public:
    Images(Db &db, ContentStore &content, Layers &layers, std::shared_ptr<RegistryDriver> registry,
           Events &events, const RegistryConfig &config, bool retain_blobs, uint32_t max_unpack,
           std::shared_ptr<const TrustPolicy> trust = nullptr); // nullptr: everything is accepted
    ~Images();

    /// Pulls one reference (all tags when it has neither tag nor digest and `all_tags`).
    /// platform: "linux/amd64[/variant]" or "". Throws before the first progress line where it can.
    void pull(const ImageReference &ref, bool all_tags, const std::string &platform,
              const std::optional<Credential> &credential, const CancelSource &cancel, const PullSink &sink);
    /// Pushes one tag, or all of the repository's when `ref` has none: what its registry lacks of layers and
    /// config, then the manifest. An image that was pulled leaves with the manifest it came with. `pushed`
    /// is told each finished tag. kNotFound in dockerd's words for what is not here.
    void push(const ImageReference &ref, const std::optional<Credential> &credential,
              const CancelSource &cancel, const PullSink &sink,
              const std::function<void(const PushedTag &)> &pushed);
    /// Name, familiar or full, id, id prefix (sha256: optional), name@digest. kNotFound
    /// "No such image: X". Ambiguous prefixes are kInvalidArgument.
    ImageInfo get(const std::string &name) const;
    std::vector<ImageInfo> list() const;
    std::vector<HistoryEntry> history(const std::string &name) const;
    void tag(const std::string &name, const ImageReference &to);
    /// docker rmi semantics. kFailedPrecondition (409) texts as dockerd's.
    std::vector<Deleted> remove(const std::string &name, bool force, bool prune_parents);
    /// Takes interrupted downloads too.
    std::vector<Deleted> prune(bool dangling_only, uint64_t &reclaimed);
    std::vector<InterruptedDownload> interrupted() const;
    /// docker import: a root file system tar as a new image of one layer. Returns the image id.
    std::string import(const std::function<size_t(void *, size_t)> &tar,
                       const std::optional<ImageReference> &ref, const std::string &message,
                       const std::vector<std::string> &changes, const std::string &platform,
                       const CancelSource &cancel);
    /// Makes an image of a container's changes: one new layer that holds them alone. Returns its id.
    std::string commit(const ImageCommit &what, const CancelSource &cancel);
    /// Judges an image by the rule of its name, or by keys: one that is here by the digest it was pulled
    /// with, else what its registry has now. Asks for signatures in any case; changes nothing.
    TrustReport verify(const ImageVerification &what, const CancelSource &cancel) const;
    const TrustPolicy &trust() const;
    void mark_used(const std::string &id);
    const RegistryConfig &config() const;
    void recover();

  private:
    friend class ImageTransfer; // save, load, copy: transfer.h
    struct Impl;
    static std::vector<InterruptedDownload> interrupted_of(const Impl &impl);
    std::unique_ptr<Impl> impl_;
};

} // namespace gantry
