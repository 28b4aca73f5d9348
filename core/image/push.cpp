// Push: layers and config side by side, then the manifest, which makes them visible. A blob is opened only
// when the registry lacks it, so a second push of an image moves nothing, and one of a big image with a new
// layer on top moves that layer.
#include "core/base/log.h"
#include "core/image/blob_source.h"
#include "core/image/download.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <poll.h>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>

namespace gantry {
namespace {

constexpr int64_t kProgressGap = 100'000'000; // ns between two lines of a layer

/// Ends when the caller cancels or when work beside it failed.
class LinkedCancel {
  public:
    explicit LinkedCancel(const CancelSource &outer) : ended_(::eventfd(0, EFD_CLOEXEC)) {
        if (!ended_) throw Error::from_errno(errno, "push: make event");
        watcher_ = std::thread([this, fd = outer.fd()] {
            pollfd fds[] = {{fd, POLLIN, 0}, {ended_.get(), POLLIN, 0}};
            while (::poll(fds, 2, -1) < 0 && errno == EINTR) {
            }
            if (fds[0].revents) inner_.cancel();
        });
    }
    ~LinkedCancel() {
        const uint64_t one = 1;
        if (::write(ended_.get(), &one, sizeof one) < 0) inner_.cancel(); // an eventfd at 0 takes it
        watcher_.join();
    }
    LinkedCancel(const LinkedCancel &) = delete;
    const CancelSource &source() const { return inner_; }
    void cancel() { inner_.cancel(); }

  private:
    CancelSource inner_;
    UniqueFd ended_;
    std::thread watcher_;
};

class ImagePush {
  public:
    ImagePush(RegistryDriver &registry, ImageBytes &bytes, const ImageReference &to,
              const std::optional<Credential> &credential, const CancelSource &cancel, const PullSink &sink,
              const std::vector<std::string> &ids)
        : registry_(registry), bytes_(bytes), to_(to), credential_(credential), cancel_(cancel), sink_(sink),
          ids_(ids), last_line_(ids.size()) {}

    /// Layers and config, at most `parallel` at once.
    void blobs(uint32_t parallel);
    void manifest();
    void say(size_t layer, const std::string &status, uint64_t current = 0, uint64_t total = 0,
             bool step = false);

  private:
    void worker();
    void layer(size_t index);
    void config();
    Push prepare(const BlobRef &blob) const {
        Push push;
        push.to = {to_.registry, to_.repository, "", ""};
        push.descriptor = {blob.media_type, blob.digest, blob.size, ""};
        push.credential = credential_;
        return push;
    }

    RegistryDriver &registry_;
    ImageBytes &bytes_;
    const ImageReference &to_;
    const std::optional<Credential> &credential_;
    LinkedCancel cancel_;
    const PullSink &sink_;
    const std::vector<std::string> &ids_;
    std::mutex mutex_; // of last_line_ and error_
    std::vector<int64_t> last_line_;
    std::exception_ptr error_;
    std::atomic<size_t> next_{0};
};

void ImagePush::say(size_t layer, const std::string &status, uint64_t current, uint64_t total, bool step) {
    if (step) {
        const std::lock_guard lock(mutex_);
        const int64_t now = Call::now_ns();
        if (now - last_line_[layer] < kProgressGap) return;
        last_line_[layer] = now;
    }
    sink_({ids_[layer], status, current, total});
}

BlobSource source_of_text(const std::string &text) {
    return [&text](uint64_t at, void *buffer, size_t size) -> size_t {
        if (at >= text.size()) return 0;
        const size_t n = std::min<size_t>(size, text.size() - at);
        std::memcpy(buffer, text.data() + at, n);
        return n;
    };
}

void ImagePush::layer(size_t index) {
    const BlobRef &blob = bytes_.layers()[index];
    Push push = prepare(blob);
    for (const BlobOrigin &origin : bytes_.origins(index))
        if (origin.registry == to_.registry && origin.repository != to_.repository && push.mount_from.empty())
            push.mount_from = origin.repository;
    OpenBlob open;
    bool wanted = false;
    const BlobSource source = [&](uint64_t at, void *buffer, size_t size) -> size_t {
        if (!open.fd) { // it lacks the blob, and nobody mounts it
            // A blob that has to be fetched is fetched outside of the call: a driver's call that shows no
            // sign of life for long is given up.
            wanted = !bytes_.at_hand(index);
            if (wanted) throw Error(ErrorClass::kUnavailable, "push " + blob.digest + ": fetch it first");
            open = bytes_.open_layer(index);
        }
        ssize_t n = 0;
        do
            n = ::pread(open.fd.get(), buffer, size, static_cast<off_t>(at));
        while (n < 0 && errno == EINTR);
        if (n < 0) throw Error::from_errno(errno, "read blob " + blob.digest);
        say(index, "Pushing", std::min(at + static_cast<uint64_t>(n), blob.size), blob.size, true);
        return static_cast<size_t>(n);
    };
    const auto send = [&] {
        CallScope scope(cancelled_by(cancel_.source(), to_.familiar()));
        registry_.push(scope, push, source);
    };
    try {
        try {
            send();
        } catch (const Error &) {
            if (!wanted) throw;
            open = bytes_.open_layer(index);
            push.mount_from.clear();
            send();
        }
    } catch (const Error &error) {
        if (error.error_class() != ErrorClass::kAlreadyExists) throw;
        return say(index, "Layer already exists");
    }
    say(index, open.fd ? "Pushed" : "Mounted from " + push.mount_from);
}

void ImagePush::config() {
    CallScope scope(cancelled_by(cancel_.source(), to_.familiar()));
    try {
        registry_.push(scope, prepare(bytes_.config_blob()), source_of_text(bytes_.config()));
    } catch (const Error &error) {
        if (error.error_class() != ErrorClass::kAlreadyExists) throw;
    }
}

void ImagePush::worker() {
    const auto &layers = bytes_.layers();
    for (;;) {
        const size_t job = next_++;
        if (job > layers.size()) return;
        try {
            if (job == layers.size()) {
                config();
                continue;
            }
            const auto twin =
                std::find_if(layers.begin(), layers.begin() + static_cast<ptrdiff_t>(job),
                             [&](const BlobRef &other) { return other.digest == layers[job].digest; });
            if (twin != layers.begin() + static_cast<ptrdiff_t>(job))
                say(job, "Layer already exists"); // the same blob twice in one image
            else
                layer(job);
        } catch (...) {
            {
                const std::lock_guard lock(mutex_);
                if (!error_) error_ = std::current_exception();
            }
            next_ = layers.size() + 1;
            cancel_.cancel();
            return;
        }
    }
}

void ImagePush::blobs(uint32_t parallel) {
    const size_t jobs = bytes_.layers().size() + 1;
    const size_t count = std::clamp<size_t>(parallel, 1, std::min<size_t>(jobs, 64));
    for (size_t i = count; i < bytes_.layers().size(); ++i)
        say(i, "Waiting");
    {
        std::vector<std::jthread> threads;
        for (size_t i = 1; i < count; ++i)
            threads.emplace_back([this] { worker(); });
        worker();
    }
    if (error_) std::rethrow_exception(error_);
}

void ImagePush::manifest() {
    Push push = prepare(bytes_.manifest_blob());
    push.to.tag = to_.tag;
    push.is_manifest = true;
    CallScope scope(cancelled_by(cancel_.source(), to_.familiar()));
    try {
        registry_.push(scope, push, source_of_text(bytes_.manifest()));
    } catch (const Error &error) {
        if (error.error_class() != ErrorClass::kAlreadyExists) throw;
    }
}

[[noreturn]] void rethrow_push(const Error &error) {
    if (error.error_class() == ErrorClass::kPermissionDenied)
        throw Error(ErrorClass::kPermissionDenied,
                    "denied: requested access to the resource is denied: " + error.message(), error.hint());
    throw error;
}

} // namespace

PushedTag Images::Impl::push_one(const ImageReference &ref, const std::string &id,
                                 const std::optional<Credential> &credential, const CancelSource &cancel,
                                 const PullSink &unlocked) {
    const Work work(*this);
    std::mutex mutex;
    const PullSink sink = [&](const PullProgress &progress) {
        const std::lock_guard lock(mutex);
        unlocked(progress);
    };
    std::vector<std::string> shown; // docker shows the diff ID
    for (const std::string &diff_id : load(id).diff_ids)
        shown.push_back(short_digest(diff_id));
    for (const std::string &layer : shown)
        sink({layer, "Preparing", 0, 0});
    ImageBytes::Options options;
    options.credential = credential;
    std::vector<std::atomic<int64_t>> last(shown.size());
    options.progress = [&](const char *what, size_t layer, uint64_t current, uint64_t total) {
        const int64_t now = Call::now_ns();
        if (now - last[layer] < kProgressGap) return;
        last[layer] = now;
        sink({shown[layer], what, current, total});
    };
    ImageBytes bytes(bytes_context(), id, std::move(options), cancel);
    if (bytes.config_blob().digest != id)
        sink({ref.tag,
              "Layers of " + short_digest(id) + " were unpacked from archives that are gone; they are " +
                  "packed anew, and the image's ID in the registry is " +
                  short_digest(bytes.config_blob().digest),
              0, 0});
    try {
        ImagePush push(*registry, bytes, ref, credential, cancel, sink, shown);
        push.blobs(config.max_parallel_uploads);
        push.manifest();
    } catch (const Error &error) {
        rethrow_push(error);
    }
    bytes.remember({ref.registry, ref.repository});
    const BlobRef &manifest = bytes.manifest_blob();
    if (bytes.config_blob().digest == id)
        db.transact([&](Db &t) {
            t.prepare("INSERT INTO image_digest(registry, repository, digest, image) VALUES(?,?,?,?) "
                      "ON CONFLICT(registry, repository, digest) DO UPDATE SET image=excluded.image")
                .bind_all(ref.registry, ref.repository, manifest.digest, id)
                .run();
        });
    publish("push", ref.familiar(), ref.familiar_name());
    return {ref.tag, manifest.digest, manifest.size};
}

void Images::push(const ImageReference &ref, const std::optional<Credential> &credential,
                  const CancelSource &cancel, const PullSink &sink,
                  const std::function<void(const PushedTag &)> &pushed) {
    if (!ref.digest.empty()) throw Error(ErrorClass::kInvalidArgument, "cannot push a digest reference");
    std::optional<Credential> shown = credential;
    if (shown && shown->server.empty()) shown->server = ref.registry; // it is meant for nobody else
    sink({"", "The push refers to repository [" + ref.registry + "/" + ref.repository + "]", 0, 0});
    std::vector<std::pair<std::string, std::string>> tags; // with image ids
    impl_->db.transact([&](Db &t) {
        auto rows =
            t.prepare("SELECT tag, image FROM image_name WHERE registry=? AND repository=? ORDER BY tag");
        rows.bind_all(ref.registry, ref.repository);
        while (rows.step())
            tags.emplace_back(rows.text(0), rows.text(1));
    });
    if (tags.empty())
        throw Error(ErrorClass::kNotFound,
                    "An image does not exist locally with the tag: " + ref.familiar_name());
    if (!ref.tag.empty()) std::erase_if(tags, [&](const auto &tag) { return tag.first != ref.tag; });
    if (tags.empty()) throw Error(ErrorClass::kNotFound, "tag does not exist: " + ref.familiar());
    for (const auto &[tag, id] : tags) {
        ImageReference to = ref;
        to.tag = tag;
        const PushedTag done = impl_->push_one(to, id, shown, cancel, sink);
        sink({"", done.tag + ": digest: " + done.digest + " size: " + std::to_string(done.size), 0, 0});
        pushed(done);
    }
}

} // namespace gantry
