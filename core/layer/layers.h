// Layers over a storage driver: the state machine making -> ready -> removing, unpacking of tar
// streams, and realisation of mounts. The core's only user of StorageDriver.
#pragma once

#include "core/base/cancel.h"
#include "core/base/fd.h"

#include <gantry/storage.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace gantry {

class Db;
class LayerRecord;
class LayerRecords;
class TarSkeleton;

struct Layer {
    std::string id, parent, chain_id, diff_id, blob_digest;
    uint64_t blob_size = 0, size = 0, inodes = 0;
    std::string damaged; // what a check found; "" while it is whole
};

/// Limits for untrusted layers.
struct UnpackLimits {
    uint64_t max_bytes = 64ull << 30; // unpacked size of one layer
    uint64_t max_entries = 10'000'000;
    uint64_t max_ratio = 1100; // unpacked : compressed, judged beyond 64 MiB unpacked
};

struct UnpackResult {
    std::string diff_id; // digest of the uncompressed tar
    uint64_t bytes = 0, entries = 0;
};

/// Pulls compressed bytes: fills the buffer, 0 at the end, throws on failure.
using ByteSource = std::function<size_t(void *, size_t)>;

/// Takes bytes; throws to end the writing.
using ByteSink = std::function<void(const void *, size_t)>;
/// Told what of a tree could not be stored as it is, one sentence each.
using LayerNotice = std::function<void(const std::string &)>;

/// chain_id of a layer over its parent's chain (image-spec config.md, "Layer ChainID").
std::string chain_id_of(const std::string &parent_chain_id, const std::string &diff_id);

/// An id that no layer ever had. Within a transaction.
std::string next_layer_id(Db &transaction);

/// Unpacks a tar stream (plain, gzip, zstd; detected by magic) under a directory fd. Hardened: every
/// path is resolved within the root, symlinks never followed out, whiteouts written in `whiteout`
/// format. Needs the privileges to chown and mknod. Throws kInvalidArgument naming the entry. `record`
/// is told what is made, `skeleton` the tar's bytes.
UnpackResult unpack_layer(const ByteSource &source, int root_fd, gantry_whiteout whiteout,
                          const UnpackLimits &limits, const Call &call, LayerRecord *record = nullptr,
                          TarSkeleton *skeleton = nullptr);

/// Makes the mounts as one detached tree (fd of the root, no mount point in any table).
UniqueFd mount_detached(const std::vector<Mount> &mounts);

/// Thread-safe.
class Layers {
  public:
    /// `records`: where it is kept what layers consist of (record.h); "" for nowhere.
    Layers(Db &db, std::shared_ptr<StorageDriver> driver, std::string driver_name, bool durable,
           const std::string &records = {});
    ~Layers();

    /// The ready image layer with this chain id, if any; not one that is known to be damaged.
    std::optional<Layer> find(const std::string &chain_id) const;
    Layer get(const std::string &id) const; // kNotFound
    /// Ids of the layer and its ancestors, nearest first.
    LayerIds lineage(const std::string &id) const;
    /// Whether neither the layer nor one below it is known to be damaged.
    bool whole(const std::string &id) const;
    bool independent() const;
    gantry_whiteout whiteout() const;
    const LayerRecords &records() const;
    /// While any hold lives, sweep() spares the layers that find() and finish() return: a pull keeps
    /// one until its image row refers to them. A Making is a hold of its own.
    std::shared_ptr<void> hold();

    struct NewLayer {
        std::string diff_id; // expected; a mismatch is kDataLoss
        std::string blob_digest;
        uint64_t blob_size = 0;
    };
    /// An image layer in the making. Where layers are independent unpack() may run before the parent is
    /// ready and in parallel with it; otherwise `parent` must be ready at begin().
    class Making {
      public:
        virtual ~Making() = default; // undone unless finished
        virtual void unpack(const ByteSource &source, const Call &call) = 0;
        /// Makes it visible as child of `parent_id` ("" for a base layer). Its content is on the disk
        /// then where that was asked for; its row with ContentStore::settle(). Returns the layer that won
        /// when somebody else made the same chain meanwhile.
        virtual Layer finish(const std::string &parent_id) = 0;
    };
    std::unique_ptr<Making> begin(const NewLayer &what, const std::string &parent_id);

    /// A container's writable layer on top of `parent_id` ("" for none).
    Layer create_writable(const std::string &parent_id, uint64_t size_limit);
    std::vector<Mount> mounts(const std::string &id, bool read_only) const;
    void remove(const std::string &id); // kFailedPrecondition while it has children or users
    /// Removes image layers that no image, container, child layer or interrupted pull refers to. Returns
    /// bytes freed.
    uint64_t sweep();
    Usage usage(const std::string &id) const;
    std::vector<Change> changes(const std::string &id) const;
    /// A new image layer beside `id`, on the same parent, that holds `changes` as `id` shows them now;
    /// nullopt when there are none. May be called on a layer in use: what vanishes meanwhile is left out.
    std::optional<Layer> commit_changes(const std::string &id, std::vector<Change> changes,
                                        const LayerNotice &notice, const Call &call);
    /// The layer against its parent as an uncompressed OCI layer, with bounded memory. Equal trees give
    /// equal bytes; an image layer's own diff ID comes out only if its maker wrote tars the same way.
    void write_diff(const std::string &id, const ByteSink &sink, const LayerNotice &notice,
                    const Call &call) const;

    /// Bytes of the tar that an image layer was unpacked from; nullopt when it cannot be made again here
    /// (layers made by an older version, tars in which a name comes twice).
    std::optional<uint64_t> tar_size(const Layer &layer) const;
    /// That tar, byte for byte, with bounded memory. Throws kDataLoss, after the last byte too, when what
    /// came out is not the layer's diff ID.
    void write_tar(const Layer &layer, const ByteSink &sink, const Call &call) const;

    // For the check of what is there (core/check).
    /// Every ready layer.
    std::vector<Layer> list() const;
    /// What the driver has and no row knows of, nor any that is being made.
    std::vector<std::string> unknown() const;
    std::vector<std::string> missing() const;
    void remove_unknown(const std::string &id);
    /// What the driver keeps of this layer itself: with those below it unless layers are independent.
    UniqueFd own_tree(const std::string &id) const;
    /// What the driver counts, whatever was noted before.
    Usage count(const std::string &id) const;
    /// From here on find() does not return it, so that a pull makes it anew: finish() then puts the new one
    /// in its place, below all that stand on it. "" takes the mark away.
    void mark_damaged(const std::string &id, const std::string &why);
    /// A row that is neither ready nor being made by anybody.
    void remove_unfinished(const std::string &id);
    /// Records of no layer; none while layers are being made.
    std::vector<std::string> stray_records() const;
    void forget_record(const std::string &diff_id);
    /// Layers that were replaced and go when no container of before runs any more.
    std::vector<std::string> replaced() const;
    /// At start: undoes 'making', finishes 'removing', removes what the driver has and nobody knows.
    void recover();

  private:
    friend class LayerInTheMaking;
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace gantry
