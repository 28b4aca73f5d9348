// Blobs are plain files named by digest, so that "is it there" is one stat and any tool can check
// them. A blob comes into being by rename(2) of a verified partial; the database row follows, and then its
// journal goes. A kill between the first two leaves a file without a row, which recover() takes in by its
// journal, and drops when it has none: what has no row was never promised to anybody.
#include "core/content/content.h"

#include "core/base/failpoint.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/content/ingest.h"
#include "core/store/db.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <stop_token>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <thread>
#include <unistd.h>

namespace gantry {
namespace {

// A download that is over within this time never waits for the disk; a longer one loses that much to a power
// cut, which costs an fdatasync beside it and not in it.
constexpr auto kSettleEach = std::chrono::seconds(4);
constexpr auto kTrimEach = std::chrono::hours(1);

std::string algorithm_of(const std::string &digest) { return digest.substr(0, digest.find(':')); }
std::string hex_of(const std::string &digest) { return digest.substr(digest.find(':') + 1); }

} // namespace

struct ContentStore::Impl {
    std::string root;
    Db &db;
    bool durable;
    mutable std::mutex mutex;
    PartialLimits limits;
    std::condition_variable freed;
    std::map<std::string, std::shared_ptr<Partial>> open_ingests; // by digest; null while it opens or ends
    std::condition_variable_any tick;
    std::jthread keeper; // settles running downloads and drops forgotten ones

    Impl(const std::string &root_, Db &db_, bool durable_, const PartialLimits &limits_)
        : root(root_ + "/content"), db(db_), durable(durable_), limits(limits_) {}

    std::string blob_path(const std::string &digest) const {
        check_digest(digest); // also keeps "../" out of the path
        return root + "/blobs/" + algorithm_of(digest) + "/" + hex_of(digest);
    }
    std::string partial_path(const std::string &digest) const { // without suffix
        check_digest(digest);
        return root + "/ingest/" + digest;
    }
    void claim(const std::string &digest) {
        std::unique_lock lock(mutex);
        freed.wait(lock, [&] { return !open_ingests.contains(digest); });
        open_ingests[digest] = nullptr;
        start_keeper();
    }
    void began(const std::string &digest, std::shared_ptr<Partial> partial) {
        const std::lock_guard lock(mutex);
        open_ingests[digest] = std::move(partial);
    }
    void release(const std::string &digest) noexcept {
        {
            const std::lock_guard lock(mutex);
            open_ingests.erase(digest);
        }
        freed.notify_all();
    }
    void start_keeper() { // with the mutex held
        if (!keeper.joinable()) keeper = std::jthread([this](const std::stop_token &stop) { keep(stop); });
    }
    void keep(const std::stop_token &stop) {
        auto trimmed = std::chrono::steady_clock::now();
        for (;;) {
            std::vector<std::shared_ptr<Partial>> running;
            {
                std::unique_lock lock(mutex);
                tick.wait_for(lock, stop, open_ingests.empty() ? kTrimEach : kSettleEach,
                              [] { return false; });
                if (stop.stop_requested()) return;
                for (const auto &[digest, partial] : open_ingests)
                    if (partial) running.push_back(partial);
            }
            try {
                for (const auto &partial : running)
                    durable ? partial->settle() : partial->note();
                if (std::chrono::steady_clock::now() - trimmed < kTrimEach) continue;
                trimmed = std::chrono::steady_clock::now();
                trim();
            } catch (const std::exception &error) {
                log_warn("keep partial downloads: {}", error.what());
            }
        }
    }
    std::vector<PartialBlob> partials(bool look_inside) const;
    uint64_t drop_idle(const std::string &digest);
    uint64_t trim();
    /// File first, row second: see the top of the file.
    void publish(Partial &partial, const std::string &digest, uint64_t size, const std::string &media_type,
                 bool keep) {
        const std::string path = blob_path(digest);
        if (::rename(partial.data_path().c_str(), path.c_str()) != 0)
            throw Error::from_errno(errno, "rename " + partial.data_path() + " to " + path);
        failpoint("blob.renamed");
        if (durable && keep) fsync_path(root + "/blobs/" + algorithm_of(digest));
        add_row(digest, size, media_type);
        partial.forget_journal();
    }
    void add_row(const std::string &digest, uint64_t size, const std::string &media_type) {
        const int64_t now = wall_ns();
        db.transact([&](Db &t) {
            t.prepare("INSERT INTO blob(digest,size,media_type,created,used) VALUES(?,?,?,?,?) "
                      "ON CONFLICT(digest) DO UPDATE SET size=excluded.size,media_type=excluded.media_type,"
                      "used=excluded.used")
                .bind_all(digest, static_cast<int64_t>(size), media_type, now, now)
                .run();
        });
        // Not synced by itself: a row that a power cut takes leaves a file, which recover() drops.
    }
};

namespace {

// Holds the digest's claim for as long as it lives.
class FileIngest final : public Ingest {
  public:
    struct Store {
        std::function<void()> release;
        std::function<void(std::shared_ptr<Partial>)> began;
        std::function<void(Partial &, bool keep)> publish;
        std::string path, blob; // of the partial, without suffix; of the finished one
        bool durable;
    };
    FileIngest(Store store, std::string digest, uint64_t size)
        : store_(std::move(store)), digest_(std::move(digest)), size_(size) {
        try {
            struct stat st {};
            if (::stat(store_.blob.c_str(), &st) == 0 && static_cast<uint64_t>(st.st_size) == size_) {
                done_ = true; // another ingest brought it while this one waited
                return;
            }
            partial_ = std::make_shared<Partial>(digest_, size_, store_.path);
            store_.began(partial_);
        } catch (...) {
            store_.release();
            throw;
        }
    }
    ~FileIngest() override {
        try {
            if (partial_ && partial_->present() == 0) partial_->drop();
            if (partial_) {
                partial_->note();
                if (store_.durable) partial_->settle();
            }
        } catch (const std::exception &error) {
            log_warn("note partial download {}: {}", digest_, error.what());
        }
        partial_.reset();
        store_.release();
    }

    uint64_t size() const override { return size_; }
    uint64_t written() const override { return done_ ? size_ : open("measure").written(); }
    uint64_t present() const override { return done_ ? size_ : open("measure").present(); }
    std::vector<BlobRange> missing() const override {
        return done_ ? std::vector<BlobRange>{} : open("measure").missing();
    }
    void write(const void *data, size_t size) override { write_at(written(), data, size, ""); }
    void write_at(uint64_t at, const void *data, size_t size, const std::string &endpoint) override {
        open("write").write(at, static_cast<const char *>(data), size, endpoint);
    }
    std::vector<Source> sources() const override {
        return partial_ ? partial_->sources() : std::vector<Source>{};
    }
    bool matches() override { return done_ || open("verify").matches(); }
    uint64_t doubt(const std::string &endpoint) override { return open("doubt").doubt(endpoint); }
    bool differed() const override { return open("doubt").differed(); }

    void verify() override {
        if (done_ || verified_) return;
        if (const uint64_t there = open("verify").present(); there != size_) {
            // The partial stays: more bytes may still come in a later attempt.
            throw Error(ErrorClass::kDataLoss, "receive blob " + digest_ + ": " + std::to_string(there) +
                                                   " of " + std::to_string(size_) + " bytes came");
        }
        if (!partial_->matches()) {
            drop();
            throw Error(ErrorClass::kDataLoss, "verify blob " + digest_ + ": the content has another digest");
        }
        verified_ = true;
    }

    void commit(bool keep) override {
        if (done_) return;
        verify();
        if (store_.durable && keep)
            partial_->settle();
        else
            partial_->note(); // that all is there
        store_.publish(*partial_, keep);
        done_ = true;
        partial_.reset();
    }

    void drop() override {
        if (done_ || !partial_) return;
        partial_->drop();
        partial_.reset();
    }

    UniqueFd reader() const override {
        return open_file(done_ ? store_.blob : open("read").data_path(), O_RDONLY);
    }

  private:
    Partial &open(const char *doing) const {
        if (!partial_)
            throw Error(ErrorClass::kFailedPrecondition,
                        std::string(doing) + " blob " + digest_ + ": the ingest has ended");
        return *partial_;
    }

    Store store_;
    std::string digest_;
    uint64_t size_;
    std::shared_ptr<Partial> partial_;
    bool verified_ = false, done_ = false;
};

bool same_content(const std::string &path, std::string_view bytes) {
    try {
        return read_all(open_file(path, O_RDONLY | O_NOFOLLOW).get(), bytes.size(), path) == bytes;
    } catch (const Error &) {
        return false;
    }
}

} // namespace

ContentStore::ContentStore(const std::string &root, Db &db, bool durable, const PartialLimits &limits)
    : impl_(std::make_unique<Impl>(root, db, durable, limits)) {
    make_directories(impl_->root + "/blobs/sha256", 0700);
    make_directories(impl_->root + "/blobs/sha512", 0700);
    make_directories(impl_->root + "/ingest", 0700);
    make_directories(impl_->root + "/spool", 0700);
}
ContentStore::~ContentStore() = default;

bool ContentStore::has(const std::string &digest) const { return path_exists(impl_->blob_path(digest)); }

UniqueFd ContentStore::open(const std::string &digest) const {
    UniqueFd fd(::open(impl_->blob_path(digest).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd) throw Error::from_errno(errno, "open blob " + digest);
    return fd;
}

std::string ContentStore::read(const std::string &digest, size_t limit) const {
    std::string bytes = read_all(open(digest).get(), limit, "blob " + digest);
    // Read whole and used as truth (manifests, configs): a flipped bit on disk must not pass.
    Hasher hasher(algorithm_of(digest));
    hasher.update(bytes.data(), bytes.size());
    if (hasher.digest() != digest)
        throw Error(ErrorClass::kDataLoss, "read blob " + digest + ": the content on disk is damaged",
                    "remove the image and pull it again");
    return bytes;
}

uint64_t ContentStore::size(const std::string &digest) const {
    struct stat st {};
    if (::stat(impl_->blob_path(digest).c_str(), &st) != 0)
        throw Error::from_errno(errno, "stat blob " + digest);
    return static_cast<uint64_t>(st.st_size);
}

std::string ContentStore::put(std::string_view bytes, const std::string &media_type,
                              const std::string &digest) {
    if (!digest.empty()) check_digest(digest);
    Hasher hasher(digest.empty() ? "sha256" : algorithm_of(digest));
    hasher.update(bytes.data(), bytes.size());
    const std::string actual = hasher.digest();
    if (!digest.empty() && actual != digest)
        throw Error(ErrorClass::kDataLoss, "store blob " + digest + ": the content's digest is " + actual);
    struct stat st {};
    const std::string path = impl_->blob_path(actual);
    if (::stat(path.c_str(), &st) != 0 || static_cast<uint64_t>(st.st_size) != bytes.size() ||
        !same_content(path, bytes)) // damaged on disk: made good here
        write_file_atomically(path, bytes, 0600, impl_->durable);
    failpoint("blob.put");
    impl_->add_row(actual, bytes.size(), media_type);
    return actual;
}

std::unique_ptr<Ingest> ContentStore::ingest(const std::string &digest, uint64_t size,
                                             const std::string &media_type) {
    Impl *impl = impl_.get();
    FileIngest::Store store{
        [impl, digest] {
            impl->release(digest);
            try {
                impl->trim();
            } catch (const std::exception &error) {
                log_warn("keep partial downloads: {}", error.what());
            }
        },
        [impl, digest](std::shared_ptr<Partial> partial) { impl->began(digest, std::move(partial)); },
        [impl, digest, size, media_type](Partial &partial, bool keep) {
            impl->publish(partial, digest, size, media_type, keep);
        },
        impl->partial_path(digest),
        impl->blob_path(digest),
        impl->durable};
    impl->trim();
    impl->claim(digest);
    return std::make_unique<FileIngest>(std::move(store), digest, size);
}

std::vector<PartialBlob> ContentStore::Impl::partials(bool look_inside) const {
    std::vector<PartialBlob> out;
    constexpr std::string_view kSuffix = ".partial";
    for (const std::string &name : list_directory(root + "/ingest")) {
        PartialBlob blob;
        if (!name.ends_with(kSuffix)) continue;
        blob.digest = name.substr(0, name.size() - kSuffix.size());
        const std::string path = root + "/ingest/" + blob.digest;
        struct stat data {
        }, journal{};
        if (::lstat((path + ".partial").c_str(), &data) != 0) continue;
        blob.disk = static_cast<uint64_t>(data.st_blocks) * 512;
        blob.changed_ns = data.st_mtim.tv_sec * 1'000'000'000 + data.st_mtim.tv_nsec;
        std::shared_ptr<Partial> open;
        {
            const std::lock_guard lock(mutex);
            const auto found = open_ingests.find(blob.digest);
            blob.active = found != open_ingests.end();
            if (blob.active) open = found->second;
        }
        try {
            if (open) {
                blob.size = open->size();
                blob.present = open->present();
            } else if (look_inside && ::lstat((path + ".journal").c_str(), &journal) == 0) {
                if (const auto state = PartialJournal(path + ".journal").load()) {
                    blob.size = state->size;
                    blob.present = state->present();
                }
            }
        } catch (const Error &error) {
            log_warn("look at partial download {}: {}", blob.digest, error.message());
        }
        out.push_back(std::move(blob));
    }
    std::sort(out.begin(), out.end(),
              [](const PartialBlob &a, const PartialBlob &b) { return a.changed_ns < b.changed_ns; });
    return out;
}

/// 0 when somebody is at it.
uint64_t ContentStore::Impl::drop_idle(const std::string &digest) {
    {
        const std::lock_guard lock(mutex);
        if (!open_ingests.try_emplace(digest, nullptr).second) return 0; // an opener waits for us
    }
    struct stat st {};
    const std::string path = root + "/ingest/" + digest;
    const uint64_t bytes =
        ::lstat((path + ".partial").c_str(), &st) == 0 ? static_cast<uint64_t>(st.st_blocks) * 512 : 0;
    Partial::drop(path);
    release(digest);
    return bytes;
}

uint64_t ContentStore::Impl::trim() {
    const int64_t now = wall_ns();
    uint64_t total = 0, freed = 0;
    const std::vector<PartialBlob> all = partials(false);
    for (const PartialBlob &blob : all)
        total += blob.disk;
    for (const PartialBlob &blob : all) {
        const bool old = limits.ttl_ns == 0 || now - blob.changed_ns > limits.ttl_ns;
        if (blob.active || (!old && total <= limits.budget)) continue;
        log_info("drop the interrupted download of {}: {}", blob.digest,
                 old ? "nobody continued it" : "others are newer and the budget is used up");
        freed += drop_idle(blob.digest);
        total -= blob.disk;
    }
    return freed;
}

std::vector<PartialBlob> ContentStore::partials() const { return impl_->partials(true); }
uint64_t ContentStore::trim_partials() { return impl_->trim(); }

std::pair<uint64_t, uint64_t> ContentStore::disk_space() const {
    struct statvfs fs {};
    if (::statvfs(impl_->root.c_str(), &fs) != 0) throw Error::from_errno(errno, "measure " + impl_->root);
    return {uint64_t(fs.f_bavail) * fs.f_frsize, uint64_t(fs.f_blocks) * fs.f_frsize};
}

uint64_t ContentStore::drop_partials(uint64_t wanted) {
    uint64_t freed = 0;
    for (const PartialBlob &blob : impl_->partials(false)) {
        if (blob.active) continue;
        if (wanted != ~uint64_t(0) && disk_space().first >= wanted) break;
        freed += impl_->drop_idle(blob.digest);
    }
    return freed;
}

void ContentStore::remove(const std::string &digest) {
    const std::string path = impl_->blob_path(digest);
    // Row first: a kill in between leaves a file without a row, which recover() takes.
    impl_->db.transact([&](Db &t) { t.prepare("DELETE FROM blob WHERE digest=?").bind(1, digest).run(); });
    failpoint("blob.forgotten");
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw Error::from_errno(errno, "remove " + path);
}

UniqueFd ContentStore::scratch() const {
    const std::string folder = impl_->root + "/ingest";
    UniqueFd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (fd) return fd;
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)
        throw Error::from_errno(errno, "make a file in " + folder);
    std::string name = folder + "/scratch-XXXXXX"; // a file system without unnamed files
    fd.reset(::mkostemp(name.data(), O_CLOEXEC));
    if (!fd) throw Error::from_errno(errno, "make a file in " + folder);
    ::unlink(name.c_str());
    return fd;
}

std::string ContentStore::make_spool() const {
    std::string folder = impl_->root + "/spool/XXXXXX";
    if (!::mkdtemp(folder.data())) throw Error::from_errno(errno, "make directory " + folder);
    return folder;
}

void ContentStore::adopt(const std::string &file, const std::string &digest, uint64_t size,
                         const std::string &media_type) {
    const std::string path = impl_->blob_path(digest);
    struct stat st {};
    if (::stat(path.c_str(), &st) == 0 && static_cast<uint64_t>(st.st_size) == size)
        return impl_->add_row(digest, size, media_type);
    if (impl_->durable) fsync_path(file);
    // A second name, so that the spool can give the same file again once this blob is dropped.
    const std::string partial = file + ".blob";
    if (::link(file.c_str(), partial.c_str()) != 0) throw Error::from_errno(errno, "link " + partial);
    if (::rename(partial.c_str(), path.c_str()) != 0)
        throw Error::from_errno(errno, "rename " + partial + " to " + path);
    failpoint("blob.renamed");
    if (impl_->durable) fsync_path(impl_->root + "/blobs/" + algorithm_of(digest));
    impl_->add_row(digest, size, media_type);
}

std::vector<std::string> ContentStore::list() const {
    std::vector<std::string> digests;
    impl_->db.transact([&](Db &t) {
        auto rows = t.prepare("SELECT digest FROM blob ORDER BY digest");
        while (rows.step())
            digests.push_back(rows.text(0));
    });
    return digests;
}

void ContentStore::settle() {
    if (impl_->durable) impl_->db.sync();
}

bool ContentStore::whole_by_journal(const std::string &digest, const std::string &path) {
    struct stat st {};
    try {
        const std::string journal = impl_->partial_path(digest) + ".journal";
        if (!path_exists(journal) || ::lstat(path.c_str(), &st) != 0) return false;
        const auto state = PartialJournal(journal).load();
        if (!state || state->size != static_cast<uint64_t>(st.st_size) || state->present() != state->size)
            return false;
        impl_->add_row(digest, state->size, "");
        return true;
    } catch (const Error &error) {
        log_warn("look at blob {}: {}", digest, error.message());
        return false;
    }
}

void ContentStore::recover() {
    std::map<std::string, uint64_t> rows;
    impl_->db.transact([&](Db &t) {
        auto found = t.prepare("SELECT digest,size FROM blob");
        while (found.step())
            rows[found.text(0)] = static_cast<uint64_t>(found.integer(1));
    });
    for (const char *algorithm : {"sha256", "sha512"}) {
        const std::string folder = impl_->root + "/blobs/" + algorithm;
        for (const std::string &name : list_directory(folder)) {
            const std::string path = folder + "/" + name;
            const auto row = rows.find(std::string(algorithm) + ":" + name);
            struct stat st {};
            // A wrong size is what a power cut leaves of a file that was not synced.
            if (row != rows.end() && ::stat(path.c_str(), &st) == 0 &&
                static_cast<uint64_t>(st.st_size) == row->second) {
                rows.erase(row);
                continue;
            }
            // Renamed, and so verified, but not told: its journal is still there and claims all of it.
            if (row == rows.end() && whole_by_journal(std::string(algorithm) + ":" + name, path)) continue;
            log_info("remove unfinished blob {}", path);
            remove_tree(path);
        }
    }
    for (const auto &[digest, size] : rows) {
        log_warn("forget blob {}: its file is gone or damaged", digest);
        impl_->db.transact(
            [&](Db &t) { t.prepare("DELETE FROM blob WHERE digest=?").bind(1, digest).run(); });
    }
    for (const std::string &name : list_directory(impl_->root + "/spool"))
        remove_tree(impl_->root + "/spool/" + name);
    for (const std::string &name : list_directory(impl_->root + "/ingest")) {
        const std::string path = impl_->root + "/ingest/" + name;
        if (name.ends_with(".journal") && !path_exists(path.substr(0, path.size() - 8) + ".partial"))
            remove_tree(path);
    }
    impl_->trim();
    const std::lock_guard lock(impl_->mutex);
    impl_->start_keeper();
}

} // namespace gantry
