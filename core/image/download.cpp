// Two groups of threads: downloaders write blobs into ingests, unpackers read the partial file behind them,
// so that a pull takes about as long as the slower of network and unpacking and not their sum. Where layers
// are independent all unpack at once and are only finished in order; else each waits for its parent.
//
// Deadlocks: work is handed out base first in both groups, and a layer waits only for its own download and
// for its parent, both handed out before it. Nothing an unverified download produced becomes visible:
// finish() follows the digest check of the blob. When bytes turn out to be wrong (fetch_blob.h) the layer
// starts again.
#include "core/image/download.h"

#include "core/base/log.h"
#include "core/content/content.h"
#include "core/image/fetch_blob.h"
#include "core/image/fetch_whole.h"
#include "core/layer/layers.h"
#include "core/layer/record.h"

#include <algorithm>
#include <atomic>
#include <poll.h>
#include <set>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace gantry {
namespace {

constexpr int64_t kProgressGap = 100'000'000; // ns between two lines of a layer

/// The first attempt at a blob, or a later one after a digest mismatch.
struct Stream {
    UniqueFd fd;
    uint64_t available = 0;
    enum class State { kRunning, kVerified, kWrong } state = State::kRunning;
    bool stored = false; // the blob has its name, and is on the disk where that was asked for
};

uint64_t file_size(int fd) {
    struct stat st {};
    if (::fstat(fd, &st) != 0) throw Error::from_errno(errno, "read blob");
    return static_cast<uint64_t>(st.st_size);
}

std::string damage_of(const Layers &layers, const std::string &id, const CancelSource &cancel);

/// Bytes of this attempt were wrong; a new attempt is under way.
struct Restart {};

struct Job {
    const LayerPlan *plan = nullptr;
    std::string short_id;
    std::shared_ptr<Stream> stream; // null: download not begun
    std::string layer_id;           // "" until finished
    bool exists = false;            // the layer was there before, and whole
    bool blob_missing = false;      // of such a layer, where blobs are retained
    int64_t last_line_ns = 0;
    bool wanted() const { return !exists || blob_missing; }
};

class LayerPull {
  public:
    LayerPull(const LayerPullContext &context, const std::vector<LayerPlan> &plan, const CancelSource &cancel,
              const PullSink &sink, bool &repaired)
        : context_(context), cancel_(cancel), sink_(sink),
          repaired_(repaired), fetch_settings_{context.registry,
                                               context.content,
                                               context.connections,
                                               context.bandwidth,
                                               context.from,
                                               context.credential,
                                               context.config.parallel_ranges,
                                               context.config.range_size} {
        jobs_.resize(plan.size());
        for (size_t i = 0; i < plan.size(); ++i) {
            jobs_[i].plan = &plan[i];
            jobs_[i].short_id = short_digest(plan[i].blob.digest);
        }
    }

    std::string run();

  private:
    void say(Job &job, const char *status, uint64_t current = 0, uint64_t total = 0, bool throttled = false,
             std::vector<std::pair<std::string, uint64_t>> sources = {});
    void fail(std::exception_ptr why);
    void check() const { // with mutex_ held
        if (error_) throw Error(ErrorClass::kCancelled, "pull: stopped");
    }
    void download_worker();
    void unpack_worker();
    void download(Job &job);
    bool from_store(Job &job);
    void publish(Job &job, std::shared_ptr<Stream> stream);
    void bring(Job &job, Ingest &ingest);
    void restart(Job &job, std::shared_ptr<Stream> stream);
    bool damaged_blob(const Job &job);
    void look_at_existing();
    bool take_existing(size_t index);
    void unpack(size_t index);
    void unpack_once(size_t index, bool &mended);
    std::string wait_for_parent(size_t index);
    size_t read(Job &job, const std::shared_ptr<Stream> &stream, uint64_t &at, void *buffer, size_t size);

    const LayerPullContext &context_;
    const CancelSource &cancel_;
    const PullSink &sink_;
    bool &repaired_;
    CancelSource stop_;
    BlobFetchSettings fetch_settings_;
    std::vector<Job> jobs_;
    std::atomic<size_t> next_download_{0}, next_unpack_{0};

    std::mutex mutex_; // streams, layer ids, error
    std::condition_variable changed_;
    std::exception_ptr error_;
    std::set<BlobFetch *> fetches_;
    std::mutex sink_mutex_;
};

void LayerPull::say(Job &job, const char *status, uint64_t current, uint64_t total, bool throttled,
                    std::vector<std::pair<std::string, uint64_t>> sources) {
    std::lock_guard lock(sink_mutex_);
    const int64_t now = Call::now_ns();
    if (throttled && now - job.last_line_ns < kProgressGap) return;
    if (throttled) job.last_line_ns = now;
    sink_({job.short_id, status, current, total, std::move(sources)});
}

void LayerPull::fail(std::exception_ptr why) {
    std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(why);
    stop_.cancel();
    for (BlobFetch *fetch : fetches_)
        fetch->cancel();
    changed_.notify_all();
}

void LayerPull::download_worker() {
    try {
        for (;;) {
            const size_t i = next_download_.fetch_add(1);
            if (i >= jobs_.size()) return;
            if (jobs_[i].wanted()) download(jobs_[i]);
        }
    } catch (...) {
        fail(std::current_exception());
    }
}

void LayerPull::unpack_worker() {
    try {
        for (;;) {
            const size_t i = next_unpack_.fetch_add(1);
            if (i >= jobs_.size()) return;
            unpack(i);
        }
    } catch (...) {
        fail(std::current_exception());
    }
}

void LayerPull::publish(Job &job, std::shared_ptr<Stream> stream) {
    std::lock_guard lock(mutex_);
    job.stream = std::move(stream);
    changed_.notify_all();
}

bool LayerPull::from_store(Job &job) {
    auto stream = std::make_shared<Stream>();
    try {
        stream->fd = context_.content.open(job.plan->blob.digest);
    } catch (const Error &error) { // not has(): another pull may remove it in between
        if (error.error_class() == ErrorClass::kNotFound) return false;
        throw;
    }
    stream->available = file_size(stream->fd.get());
    if (stream->available != job.plan->blob.size) {
        log_warn("blob {} has {} of {} bytes on disk; downloading it again", job.plan->blob.digest,
                 stream->available, job.plan->blob.size);
        context_.content.remove(job.plan->blob.digest);
        return false;
    }
    stream->state = Stream::State::kVerified;
    stream->stored = true;
    publish(job, stream);
    say(job, "Download complete");
    return true;
}

void LayerPull::download(Job &job) {
    const BlobRef &blob = job.plan->blob;
    if (from_store(job)) return;
    // Another pull may be bringing the same blob. What it has when it is cancelled is ours to go on with.
    const auto guard = context_.locks.lock("blob " + blob.digest, stop_);
    if (from_store(job)) return;
    auto ingest = context_.content.ingest(blob.digest, blob.size, blob.media_type);
    bring(job, *ingest);
}

/// Who unpacks what this stream gave so far does it again with the next one.
void LayerPull::restart(Job &job, std::shared_ptr<Stream> stream) {
    std::lock_guard lock(mutex_);
    if (job.stream) job.stream->state = Stream::State::kWrong;
    job.stream = std::move(stream);
    changed_.notify_all();
}

void LayerPull::bring(Job &job, Ingest &ingest) {
    const BlobRef &blob = job.plan->blob;
    const auto begin_stream = [&] {
        auto stream = std::make_shared<Stream>();
        stream->fd = ingest.reader();
        stream->available = ingest.written();
        return stream;
    };
    publish(job, begin_stream());
    const auto slot = context_.connections.wait([this] { return stop_.cancelled(); });
    BlobFetch fetch(
        fetch_settings_, blob, ingest,
        [&] {
            {
                std::lock_guard lock(mutex_);
                job.stream->available = std::max(job.stream->available, ingest.written());
                changed_.notify_all();
            }
            say(job, "Downloading", ingest.present(), blob.size, true);
        },
        [&] {
            auto stream = begin_stream();
            stream->available = 0; // until it is known which bytes are wrong
            restart(job, std::move(stream));
        });
    struct Listed {
        LayerPull &owner;
        BlobFetch &fetch;
        ~Listed() {
            std::lock_guard lock(owner.mutex_);
            owner.fetches_.erase(&fetch);
        }
    } listed{*this, fetch};
    {
        std::lock_guard lock(mutex_);
        check();
        fetches_.insert(&fetch);
    }
    fetch.run();
    say(job, "Verifying Checksum");
    std::vector<std::pair<std::string, uint64_t>> sources;
    for (Ingest::Source &source : ingest.sources())
        sources.emplace_back(std::move(source.endpoint), source.bytes);
    std::shared_ptr<Stream> stream;
    {
        // The layer need not wait for the disk; the pull as a whole does, in run().
        std::lock_guard lock(mutex_);
        stream = job.stream;
        stream->available = ingest.size();
        stream->state = Stream::State::kVerified;
        changed_.notify_all();
    }
    ingest.commit(context_.retain_blobs);
    {
        std::lock_guard lock(mutex_);
        stream->stored = true;
        changed_.notify_all();
    }
    say(job, "Download complete", 0, 0, false, std::move(sources));
}

/// Verified once, and other bytes now: damaged on the disk since, or by a power cut.
bool LayerPull::damaged_blob(const Job &job) {
    const std::string &digest = job.plan->blob.digest;
    Hasher hasher(digest.substr(0, digest.find(':')));
    UniqueFd fd;
    try {
        fd = context_.content.open(digest);
    } catch (const Error &error) {
        if (error.error_class() != ErrorClass::kNotFound) throw;
        return true;
    }
    std::vector<char> buffer(1 << 20);
    for (;;) {
        const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return true;
        if (n == 0) return hasher.digest() != digest;
        hasher.update(buffer.data(), static_cast<size_t>(n));
    }
}

size_t LayerPull::read(Job &job, const std::shared_ptr<Stream> &stream, uint64_t &at, void *buffer,
                       size_t size) {
    uint64_t available = 0;
    bool verified = false;
    {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] {
            return error_ || stream->state != Stream::State::kRunning || stream->available > at;
        });
        check();
        if (stream->state == Stream::State::kWrong) throw Restart{};
        available = stream->available;
        verified = stream->state == Stream::State::kVerified;
    }
    if (at >= available) return 0; // verified, at the end
    const size_t want = static_cast<size_t>(std::min<uint64_t>(size, available - at));
    ssize_t n = 0;
    do
        n = ::pread(stream->fd.get(), buffer, want, static_cast<off_t>(at));
    while (n < 0 && errno == EINTR);
    if (n < 0) throw Error::from_errno(errno, "read blob " + job.plan->blob.digest);
    if (n == 0)
        throw Error(ErrorClass::kDataLoss, "read blob " + job.plan->blob.digest + ": shorter than written");
    at += static_cast<uint64_t>(n);
    if (verified) say(job, "Extracting", at, job.plan->blob.size, true);
    return static_cast<size_t>(n);
}

std::string LayerPull::wait_for_parent(size_t index) {
    if (index == 0) return {};
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return error_ || !jobs_[index - 1].layer_id.empty(); });
    check();
    return jobs_[index - 1].layer_id;
}

void LayerPull::unpack(size_t index) {
    if (jobs_[index].exists) {
        if (take_existing(index)) return;
        if (!jobs_[index].blob_missing) download(jobs_[index]);
    }
    bool mended = false; // at most once
    for (;;) {
        try {
            unpack_once(index, mended);
            return;
        } catch (const Restart &) {
        }
    }
}

void LayerPull::unpack_once(size_t index, bool &mended) {
    Job &job = jobs_[index];
    std::shared_ptr<Stream> stream;
    {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return error_ || job.stream; });
        check();
        stream = job.stream;
    }
    const bool independent = context_.layers.independent();
    std::string parent = independent ? std::string() : wait_for_parent(index);
    auto done = [&](const std::string &id) {
        std::lock_guard lock(mutex_);
        job.layer_id = id;
        changed_.notify_all();
    };
    // Another pull may be making the same layer: wait for it instead of doing the work twice.
    const auto guard = context_.locks.lock("layer " + job.plan->chain_id, stop_);
    std::string layer_id;
    if (const auto found = context_.layers.find(job.plan->chain_id)) {
        layer_id = found->id;
    } else {
        const Layers::NewLayer what{job.plan->diff_id, job.plan->blob.digest, job.plan->blob.size};
        auto making = context_.layers.begin(what, parent);
        uint64_t at = 0;
        CallScope scope(cancelled_by(stop_));
        try {
            making->unpack([&](void *buffer, size_t size) { return read(job, stream, at, buffer, size); },
                           scope);
        } catch (const Error &error) {
            // Wrong bytes may break the unpacking before their digest is known: the download decides.
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return error_ || stream->state != Stream::State::kRunning; });
            if (!error_ && stream->state == Stream::State::kWrong) throw Restart{};
            if (error_ || mended || error.error_class() != ErrorClass::kDataLoss) throw;
            changed_.wait(lock, [&] { return error_ || stream->stored; });
            if (error_) throw;
            lock.unlock();
            if (!damaged_blob(job)) throw;
            log_warn("blob {} is damaged on disk; downloading it again", job.plan->blob.digest);
            context_.content.remove(job.plan->blob.digest);
            restart(job, nullptr);
            mended = true;
            download(job);
            throw Restart{};
        }
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return error_ || stream->state != Stream::State::kRunning; });
            check();
            if (stream->state == Stream::State::kWrong) throw Restart{};
        }
        if (independent) parent = wait_for_parent(index);
        layer_id = making->finish(parent).id; // from here on the layer is durable
    }
    {
        std::unique_lock lock(mutex_); // found by another pull: our own download may still run
        changed_.wait(lock, [&] { return error_ || stream->state != Stream::State::kRunning; });
        check();
        if (stream->state == Stream::State::kWrong) throw Restart{};
    }
    if (!context_.retain_blobs) {
        bool needed_again = false; // the same blob twice in one image
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return error_ || stream->stored; });
            check();
            for (const Job &other : jobs_)
                needed_again = needed_again || (&other != &job && other.layer_id.empty() && !other.stream &&
                                                other.plan->blob.digest == job.plan->blob.digest);
        }
        if (!needed_again) context_.content.remove(job.plan->blob.digest);
    }
    done(layer_id);
    say(job, "Pull complete");
}

/// Which layers are there as they were made. What was changed, cut short or removed on the disk is marked, so
/// that it is made anew, below those that stand on it.
void LayerPull::look_at_existing() {
    bool below = true; // so far all are there
    for (Job &job : jobs_) {
        const auto found = context_.layers.find(job.plan->chain_id);
        job.exists = found.has_value();
        if (found)
            if (const std::string damage = damage_of(context_.layers, found->id, cancel_); !damage.empty()) {
                log_warn("layer {} ({}): {}; making it anew", found->id, job.short_id, damage);
                context_.layers.mark_damaged(found->id, damage);
                job.exists = false;
                repaired_ = true;
                say(job, "Repairing damaged layer");
            }
        below = below && job.exists;
        if (below) job.layer_id = found->id;
        if (job.exists && context_.retain_blobs) {
            const std::string &digest = job.plan->blob.digest;
            job.blob_missing =
                !context_.content.has(digest) || context_.content.size(digest) != job.plan->blob.size;
            repaired_ = repaired_ || job.blob_missing;
        }
        say(job, job.blob_missing ? "Repairing missing blob"
                 : job.exists     ? "Already exists"
                                  : "Pulling fs layer");
    }
}

/// False when it has gone since.
bool LayerPull::take_existing(size_t index) {
    Job &job = jobs_[index];
    {
        std::lock_guard lock(mutex_);
        if (!job.layer_id.empty()) return true;
    }
    wait_for_parent(index);
    const auto found = context_.layers.find(job.plan->chain_id);
    if (!found) return false;
    std::lock_guard lock(mutex_);
    job.layer_id = found->id;
    changed_.notify_all();
    return true;
}

std::string LayerPull::run() {
    if (jobs_.empty()) return {};
    look_at_existing();
    std::vector<Job *> wanted;
    for (Job &job : jobs_)
        if (job.wanted()) wanted.push_back(&job);
    if (wanted.empty()) return jobs_.back().layer_id;
    const size_t missing = wanted.size();
    const size_t downloads =
        std::clamp<size_t>(context_.config.max_parallel_downloads, 1, std::min<size_t>(missing, 32));
    const size_t cores = std::max(1u, std::thread::hardware_concurrency());
    const size_t unpacks =
        std::clamp<size_t>(context_.unpacks ? context_.unpacks : cores, 1, std::min<size_t>(missing, 64));
    for (size_t i = downloads; i < missing; ++i)
        say(*wanted[i], "Waiting");

    // Turns the caller's cancellation into ours, which also has to wake the waiters above.
    UniqueFd ended(::eventfd(0, EFD_CLOEXEC));
    if (!ended) throw Error::from_errno(errno, "pull: make event");
    {
        std::jthread watcher([&] {
            pollfd fds[] = {{cancel_.fd(), POLLIN, 0}, {ended.get(), POLLIN, 0}};
            while (::poll(fds, 2, -1) < 0 && errno == EINTR) {
            }
            if (fds[0].revents)
                fail(std::make_exception_ptr(Error(ErrorClass::kCancelled, "pull: cancelled by the caller")));
        });
        struct End {
            int fd;
            ~End() {
                const uint64_t one = 1;
                if (::write(fd, &one, sizeof one) < 0) return; // an eventfd at 0 takes it
            }
        } end{ended.get()};
        std::vector<std::jthread> workers;
        try {
            for (size_t i = 0; i < downloads; ++i)
                workers.emplace_back([this] { download_worker(); });
            for (size_t i = 0; i < unpacks; ++i)
                workers.emplace_back([this] { unpack_worker(); });
        } catch (...) {
            fail(std::current_exception()); // the threads that did start end and are joined
        }
    }
    std::lock_guard lock(mutex_);
    if (jobs_.back().layer_id.empty() && !error_)
        throw Error(ErrorClass::kInternal, "pull: the layers ended without a result");
    if (error_) std::rethrow_exception(error_); // a blob may fail after its layer was made
    return jobs_.back().layer_id;
}

/// "" when nothing is known to be wrong with the files of a layer: kinds, sizes, owners, times, not contents,
/// which `system check --deep` reads.
std::string damage_of(const Layers &layers, const std::string &id, const CancelSource &cancel) {
    const CallScope call(cancelled_by(cancel));
    try {
        const LayerVerdict verdict = verify_layer(layers, layers.records(), id, call, false);
        if (verdict.damaged == 0) return {};
        return verdict.first.empty() ? "damaged" : verdict.first.front();
    } catch (const Error &error) {
        if (error.error_class() == ErrorClass::kCancelled) throw;
        if (error.error_class() == ErrorClass::kNotFound) return error.message();
        log_warn("look at layer {}: {}", id, error.message());
        return {};
    }
}

} // namespace

CallScope::Settings cancelled_by(const CancelSource &cancel, const std::string &subject) {
    CallScope::Settings out;
    out.cancel = &cancel;
    out.subject = subject;
    return out;
}

std::string short_digest(const std::string &digest) {
    const size_t colon = digest.find(':');
    return digest.substr(colon == std::string::npos ? 0 : colon + 1, 12);
}

std::string pull_layers(const LayerPullContext &context, const std::vector<LayerPlan> &plan,
                        const CancelSource &cancel, const PullSink &sink, bool &repaired) {
    return LayerPull(context, plan, cancel, sink, repaired).run();
}

std::string fetch_small(const LayerPullContext &context, const BlobRef &blob, bool is_manifest, size_t limit,
                        const CancelSource &cancel, bool *repaired) {
    check_announced_size(blob.digest, blob.size, limit);
    if (context.content.has(blob.digest)) {
        try {
            return context.content.read(blob.digest, limit);
        } catch (const Error &error) {
            if (error.error_class() == ErrorClass::kCancelled) throw;
            log_warn("{}; fetching it again", error.message());
            context.content.remove(blob.digest);
            if (repaired) *repaired = true;
        }
    }
    Fetch fetch;
    fetch.from = context.from;
    fetch.descriptor = {blob.media_type, blob.digest, blob.size, ""};
    fetch.credential = context.credential;
    fetch.is_manifest = is_manifest;
    const CallScope scope(cancelled_by(cancel));
    std::string bytes = fetch_document(context.registry, fetch, limit, 4, scope);
    context.content.put(bytes, blob.media_type, blob.digest);
    return bytes;
}

} // namespace gantry
