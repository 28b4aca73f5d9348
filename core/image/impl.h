// What the parts of Images share: the collaborators, the guard between work in progress and the sweep,
// and the locks that keep two pulls from making the same layer twice.
#pragma once

#include "core/image/images.h"
#include "core/image/manifest.h"
#include "core/image/trust.h"
#include "core/image/transfer_limits.h"

#include <condition_variable>
#include <mutex>
#include <set>

namespace gantry {

/// Names in use, one holder each. Waiting obeys cancellation.
class NamedLocks {
  public:
    class Guard {
      public:
        Guard(NamedLocks &owner, std::string name) : owner_(&owner), name_(std::move(name)) {}
        Guard(Guard &&other) noexcept : owner_(other.owner_), name_(std::move(other.name_)) {
            other.owner_ = nullptr;
        }
        ~Guard();

      private:
        NamedLocks *owner_;
        std::string name_;
    };
    Guard lock(const std::string &name, const CancelSource &cancel);
    bool held(const std::string &name) const {
        std::lock_guard lock(mutex_);
        return held_.count(name) != 0;
    }

  private:
    mutable std::mutex mutex_;
    std::condition_variable freed_;
    std::set<std::string> held_;
};

/// Who waits for a pull of the same image watches its progress meanwhile.
class PullAudience {
  public:
    class Seat {
      public:
        Seat(PullAudience &owner, std::string image, const PullSink &sink);
        ~Seat(); // no line arrives after it
        Seat(const Seat &) = delete;

      private:
        PullAudience &owner_;
        std::string image_;
        const PullSink *sink_;
    };
    void show(const std::string &image, const PullProgress &progress);

  private:
    std::mutex mutex_; // held while sinks run: they do not wait for their clients
    std::multimap<std::string, const PullSink *> seats_;
};

struct ImageBytesContext;

struct Images::Impl {
    Db &db;
    ContentStore &content;
    Layers &layers;
    std::shared_ptr<RegistryDriver> registry;
    Events &events;
    RegistryConfig config;
    bool retain_blobs;
    uint32_t max_unpack;
    NamedLocks locks;

    // Layers of a pull that is not committed yet belong to no image: a sweep would take them away. So a
    // sweep waits for the last one at work, and new work waits for a running sweep.
    std::mutex work_mutex;
    std::condition_variable work_changed;
    int at_work = 0;
    bool sweeping = false, sweep_wanted = false;
    PullAudience audience = {};
    std::shared_ptr<const TrustPolicy> trust = {};
    std::set<std::string> pulling = {}; // manifests; with work_mutex
    // One for each blob that is fetched, and some more for ranges of large ones.
    Connections connections{config.max_parallel_downloads + config.parallel_ranges};
    Bandwidth bandwidth{config.bandwidth};

    class Work {
      public:
        explicit Work(Impl &impl);
        ~Work();
        Work(const Work &) = delete;

      private:
        Impl &impl_;
    };
    /// Now, or when the last work in progress ends. Returns the bytes freed, 0 when postponed.
    uint64_t sweep();
    uint64_t sweep_now();

    struct Row {
        std::string id, manifest, config, top_layer, parent;
        uint64_t size = 0;
        int64_t created = 0, added = 0;
    };
    struct Name {
        ImageReference ref; // tag or digest
    };

    /// Id of a name, id or id prefix; throws as Images::get().
    std::string find(const std::string &name, bool *by_id = nullptr) const;
    ImageInfo load(const std::string &id) const;
    std::vector<ImageReference> names(const std::string &id) const;
    /// One transaction: image row, name, digest. `changed`: the name meant something else before.
    struct Commit {
        std::string id, manifest, config, top_layer, parent;
        uint64_t size = 0;
        int64_t created_ns = 0;
        std::optional<ImageReference> ref; // its tag becomes a name, its digest a digest
        std::string pull;                  // the manifest whose pull ends with it
    };
    bool commit(const Commit &what);
    void publish(const char *action, const std::string &id, const std::string &name) const;

    /// The short form that Docker shows, unless it means something else here.
    std::string shown(const ImageReference &ref) const;

    // verify.cpp
    /// Throws unless the rule of `ref` lets it in: what can be said of the name alone.
    void admit_name(const ImageReference &ref, const std::string &doing) const;
    /// The same for what the name means: the index and the manifest chosen from it, or the manifest alone.
    void admit(const ImageReference &ref, const std::vector<std::string> &digests, const std::string &doing,
               const std::optional<Credential> &credential, const CancelSource &cancel) const;
    // push.cpp
    PushedTag push_one(const ImageReference &ref, const std::string &id,
                       const std::optional<Credential> &credential, const CancelSource &cancel,
                       const PullSink &sink);

    // blob_source.cpp
    ImageBytesContext bytes_context();

    // pull.cpp
    std::string pull_one(const ImageReference &ref, const Platform &platform, bool platform_given,
                         const std::optional<Credential> &credential, const CancelSource &cancel,
                         const PullSink &sink);

    // interrupted.cpp: what a pull brought before it ended early stays for the next one
    class Pulling {
      public:
        Pulling(Impl &impl, std::string manifest, const std::set<std::string> &parts);
        ~Pulling();
        Pulling(const Pulling &) = delete;

      private:
        Impl &impl_;
        std::string manifest_;
    };
    void forget_expired_pulls();
    /// A disk that filled up gets its last tenth back, before what could be continued.
    void make_room(const std::string &manifest);
    uint64_t drop_interrupted();

    // remove.cpp
    struct User {
        std::string id;
        bool running = false;
    };
    std::vector<User> users(const std::string &image) const;
    bool has_children(const std::string &image) const;
    void drop_name(const ImageReference &ref, const std::string &id, std::vector<Deleted> &out);
    bool drop_image(const std::string &id, bool prune_parents, std::vector<Deleted> &out);
};

} // namespace gantry
