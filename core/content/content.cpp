// Blobs are plain files named by digest, so that "is it there" is one stat and any tool can check
// them. A blob comes into being by rename(2) of a verified partial; the database row follows. A kill
// between the two leaves a file without a row, which recover() drops: a verified blob whose row was
// never committed was never promised to anybody.
#include "core/content/content.h"

#include "core/base/failpoint.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/store/db.h"

#include <gantry/error.hpp>

#include <condition_variable>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <set>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {
namespace {

constexpr int64_t kPartialLifetimeSeconds = 7 * 24 * 3600;
constexpr size_t kRehashBuffer = 1 << 20;
constexpr uint64_t kWriteBehind = 8 << 20;

std::string algorithm_of(const std::string &digest) { return digest.substr(0, digest.find(':')); }
std::string hex_of(const std::string &digest) { return digest.substr(digest.find(':') + 1); }

} // namespace

struct ContentStore::Impl {
    std::string root;
    Db &db;
    bool durable;
    std::mutex mutex;
    std::condition_variable freed;
    std::set<std::string> open_ingests;

    Impl(const std::string &root_, Db &db_, bool durable_)
        : root(root_ + "/content"), db(db_), durable(durable_) {}

    std::string blob_path(const std::string &digest) const {
        check_digest(digest); // also keeps "../" out of the path
        return root + "/blobs/" + algorithm_of(digest) + "/" + hex_of(digest);
    }
    std::string partial_path(const std::string &digest) const {
        check_digest(digest);
        return root + "/ingest/" + digest + ".partial";
    }
    void claim(const std::string &digest) {
        std::unique_lock lock(mutex);
        freed.wait(lock, [&] { return !open_ingests.contains(digest); });
        open_ingests.insert(digest);
    }
    void release(const std::string &digest) noexcept {
        {
            const std::lock_guard lock(mutex);
            open_ingests.erase(digest);
        }
        freed.notify_all();
    }
    /// File first, row second: see the top of the file.
    void publish(const std::string &partial, const std::string &digest, uint64_t size,
                 const std::string &media_type) {
        const std::string path = blob_path(digest);
        if (::rename(partial.c_str(), path.c_str()) != 0)
            throw Error::from_errno(errno, "rename " + partial + " to " + path);
        failpoint("blob.renamed");
        if (durable) fsync_path(root + "/blobs/" + algorithm_of(digest));
        add_row(digest, size, media_type);
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
    FileIngest(std::function<void()> release, std::string digest, uint64_t size, std::string partial,
               std::string blob, bool durable, std::function<void()> publish)
        : release_(std::move(release)), digest_(std::move(digest)), size_(size), partial_(std::move(partial)),
          blob_(std::move(blob)), durable_(durable), publish_(std::move(publish)),
          hasher_(algorithm_of(digest_)) {
        try {
            open();
        } catch (...) {
            release_();
            throw;
        }
    }
    ~FileIngest() override { release_(); }

    uint64_t written() const override { return written_; }

    void write(const void *data, size_t size) override {
        require_open("write");
        if (size > size_ - written_)
            throw Error(ErrorClass::kDataLoss, "receive blob " + digest_ + ": more than the announced " +
                                                   std::to_string(size_) + " bytes came");
        write_all(fd_.get(), {static_cast<const char *>(data), size}, partial_);
        hasher_.update(data, size);
        written_ += size;
        failpoint("blob.part");
        // The disk works while the network does; only the rest is left for fsync.
        if (durable_ && written_ - started_ >= kWriteBehind) {
            ::sync_file_range(fd_.get(), static_cast<off_t>(started_),
                              static_cast<off_t>(written_ - started_), SYNC_FILE_RANGE_WRITE);
            started_ = written_;
        }
    }

    void verify() override {
        if (done_ || verified_) return;
        require_open("verify");
        if (written_ != size_) {
            // The partial stays: more bytes may still come in a later attempt.
            throw Error(ErrorClass::kDataLoss, "receive blob " + digest_ + ": " + std::to_string(written_) +
                                                   " of " + std::to_string(size_) + " bytes came");
        }
        if (const std::string actual = hasher_.digest(); actual != digest_) {
            drop();
            throw Error(ErrorClass::kDataLoss,
                        "verify blob " + digest_ + ": the content's digest is " + actual);
        }
        verified_ = true;
    }

    void commit() override {
        if (done_) return;
        verify();
        if (durable_ && ::fsync(fd_.get()) != 0) throw Error::from_errno(errno, "sync " + partial_);
        publish_();
        done_ = true;
        fd_.reset();
    }

    void drop() override {
        if (done_) return;
        ::unlink(partial_.c_str());
        fd_.reset();
    }

    UniqueFd reader() const override { return open_file(done_ ? blob_ : partial_, O_RDONLY); }

  private:
    void require_open(const char *doing) const {
        if (!fd_)
            throw Error(ErrorClass::kFailedPrecondition,
                        std::string(doing) + " blob " + digest_ + ": the ingest has ended");
    }
    void open() {
        struct stat st {};
        if (::stat(blob_.c_str(), &st) == 0 && static_cast<uint64_t>(st.st_size) == size_) {
            done_ = true; // another ingest brought it while this one waited
            written_ = size_;
            return;
        }
        fd_ = open_file(partial_, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
        if (::fstat(fd_.get(), &st) != 0) throw Error::from_errno(errno, "stat " + partial_);
        if (static_cast<uint64_t>(st.st_size) > size_ && ::ftruncate(fd_.get(), 0) != 0)
            throw Error::from_errno(errno, "truncate " + partial_);
        // The hash state died with the process that wrote this; the bytes did not.
        const auto buffer = std::make_unique<char[]>(kRehashBuffer);
        for (;;) {
            const ssize_t n = ::read(fd_.get(), buffer.get(), kRehashBuffer);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) throw Error::from_errno(errno, "read " + partial_);
            if (n == 0) break;
            hasher_.update(buffer.get(), static_cast<size_t>(n));
            written_ += static_cast<uint64_t>(n);
        }
    }

    std::function<void()> release_;
    std::string digest_;
    uint64_t size_;
    std::string partial_, blob_;
    bool durable_;
    std::function<void()> publish_;
    Hasher hasher_;
    UniqueFd fd_;
    uint64_t written_ = 0, started_ = 0; // started_: below, the way to the disk has begun
    bool verified_ = false, done_ = false;
};

} // namespace

ContentStore::ContentStore(const std::string &root, Db &db, bool durable)
    : impl_(std::make_unique<Impl>(root, db, durable)) {
    make_directories(impl_->root + "/blobs/sha256", 0700);
    make_directories(impl_->root + "/blobs/sha512", 0700);
    make_directories(impl_->root + "/ingest", 0700);
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
    if (::stat(path.c_str(), &st) != 0 || static_cast<uint64_t>(st.st_size) != bytes.size())
        write_file_atomically(path, bytes, 0600, impl_->durable);
    failpoint("blob.put");
    impl_->add_row(actual, bytes.size(), media_type);
    return actual;
}

std::unique_ptr<Ingest> ContentStore::ingest(const std::string &digest, uint64_t size,
                                             const std::string &media_type) {
    Impl *impl = impl_.get();
    const std::string partial = impl->partial_path(digest), blob = impl->blob_path(digest);
    impl->claim(digest);
    return std::make_unique<FileIngest>(
        [impl, digest] { impl->release(digest); }, digest, size, partial, blob, impl->durable,
        [impl, partial, digest, size, media_type] { impl->publish(partial, digest, size, media_type); });
}

void ContentStore::remove(const std::string &digest) {
    const std::string path = impl_->blob_path(digest);
    // Row first: a kill in between leaves a file without a row, which recover() takes.
    impl_->db.transact([&](Db &t) { t.prepare("DELETE FROM blob WHERE digest=?").bind(1, digest).run(); });
    failpoint("blob.forgotten");
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw Error::from_errno(errno, "remove " + path);
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
            log_info("remove unfinished blob {}", path);
            remove_tree(path);
        }
    }
    for (const auto &[digest, size] : rows) {
        log_warn("forget blob {}: its file is gone or damaged", digest);
        impl_->db.transact(
            [&](Db &t) { t.prepare("DELETE FROM blob WHERE digest=?").bind(1, digest).run(); });
    }
    const int64_t now = wall_ns() / 1'000'000'000;
    for (const std::string &name : list_directory(impl_->root + "/ingest")) {
        const std::string path = impl_->root + "/ingest/" + name;
        struct stat st {};
        if (::lstat(path.c_str(), &st) == 0 && now - st.st_mtime > kPartialLifetimeSeconds) remove_tree(path);
    }
}

} // namespace gantry
