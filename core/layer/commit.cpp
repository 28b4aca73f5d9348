// What a layer changed, as an OCI layer stream, and a new image layer made from that stream. The tar is
// written by one thread and unpacked by others at once, through a bounded queue; nothing touches the
// parent's files, so the cost follows the changes and not the image.
#include "core/layer/byte_pipe.h"
#include "core/layer/layers.h"
#include "core/layer/tree_tar.h"

#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <thread>

namespace gantry {
namespace {

TreeTarOptions options_of(const Call &call, const LayerNotice &notice) {
    TreeTarOptions options;
    options.notice = notice;
    options.check = [&call] { call.check("store changes"); };
    return options;
}

/// The push of the tar writer to the pull of the unpacker.
class TarStream {
  public:
    explicit TarStream(std::function<void(const ByteSink &)> write)
        : thread_([this, write = std::move(write)] { run(write); }) {}
    ~TarStream() {
        pipe_.leave_reader();
        thread_.join();
    }
    size_t read(void *out, size_t size) {
        if (at_ == buffer_.size) {
            at_ = 0;
            if (!pipe_.pop(buffer_)) return 0;
        }
        const size_t n = std::min(size, buffer_.size - at_);
        std::memcpy(out, buffer_.bytes.get() + at_, n);
        at_ += n;
        return n;
    }

  private:
    void run(const std::function<void(const ByteSink &)> &write) {
        std::exception_ptr error;
        try {
            write([this](const void *bytes, size_t size) { push(static_cast<const char *>(bytes), size); });
        } catch (...) {
            error = std::current_exception();
        }
        pipe_.finish(error);
    }
    void push(const char *bytes, size_t size) {
        while (size > 0) {
            BytePipe::Buffer buffer;
            if (!pipe_.acquire(buffer))
                throw Error(ErrorClass::kCancelled, "store changes: the other end has stopped");
            buffer.size = std::min(size, BytePipe::kBufferSize);
            std::memcpy(buffer.bytes.get(), bytes, buffer.size);
            bytes += buffer.size;
            size -= buffer.size;
            pipe_.push(std::move(buffer));
        }
    }

    BytePipe pipe_;
    BytePipe::Buffer buffer_;
    size_t at_ = 0;
    std::thread thread_; // last: it uses the others
};

bool same_attributes(const struct stat &a, const struct stat &b) {
    return a.st_mode == b.st_mode && a.st_uid == b.st_uid && a.st_gid == b.st_gid;
}

} // namespace

std::optional<Layer> Layers::commit_changes(const std::string &id, std::vector<Change> changes,
                                            const LayerNotice &notice, const Call &call) {
    const Layer from = get(id);
    if (changes.empty()) return std::nullopt;
    const UniqueFd tree = mount_detached(mounts(id, true));
    const std::unique_ptr<Making> making = begin({}, from.parent);
    {
        TarStream stream([&](const ByteSink &sink) {
            write_changes_tar(tree.get(), std::move(changes), sink, options_of(call, notice));
        });
        making->unpack([&](void *out, size_t size) { return stream.read(out, size); }, call);
    }
    return making->finish(from.parent); // from here on the layer is durable
}

void Layers::write_diff(const std::string &id, const ByteSink &sink, const LayerNotice &notice,
                        const Call &call) const {
    const Layer layer = get(id);
    std::vector<Change> list = changes(id);
    const UniqueFd tree = mount_detached(mounts(id, true));
    struct stat own {
    }, below{};
    below.st_mode = S_IFDIR | 0755;
    if (::fstat(tree.get(), &own) != 0) throw Error::from_errno(errno, "stat the root of layer " + id);
    if (!layer.parent.empty() && ::fstat(mount_detached(mounts(layer.parent, true)).get(), &below) != 0)
        throw Error::from_errno(errno, "stat the root of layer " + layer.parent);
    if (!same_attributes(own, below)) list.push_back({GANTRY_CHANGE_MODIFIED, "/"});
    write_changes_tar(tree.get(), std::move(list), sink, options_of(call, notice));
}

} // namespace gantry
