// The layers of one pull: downloads that stream into the unpacking behind them.
#pragma once

#include "core/image/impl.h"

#include <string>
#include <vector>

namespace gantry {

struct LayerPlan {
    BlobRef blob;
    std::string diff_id, chain_id;
};

struct LayerPullContext {
    ContentStore &content;
    Layers &layers;
    RegistryDriver &registry;
    NamedLocks &locks;
    Connections &connections;
    Bandwidth &bandwidth;
    const RegistryConfig &config;
    RegistryReference from;
    std::optional<Credential> credential;
    uint32_t unpacks;
    bool retain_blobs;
};

/// Makes the layers of `plan` (base first) that are not there; returns the id of the top one. Blocks until
/// every thread it started is gone. Throws the first failure. What is there is looked at, and made anew where
/// it is damaged or a blob that is to be retained is missing: then `repaired` is set.
std::string pull_layers(const LayerPullContext &context, const std::vector<LayerPlan> &plan,
                        const CancelSource &cancel, const PullSink &sink, bool &repaired);

/// Bytes of a manifest or config, verified; a wrong endpoint is avoided. Kept in the content store, where a
/// damaged one is replaced, which `repaired` is told.
std::string fetch_small(const LayerPullContext &context, const BlobRef &blob, bool is_manifest, size_t limit,
                        const CancelSource &cancel, bool *repaired = nullptr);

CallScope::Settings cancelled_by(const CancelSource &cancel, const std::string &subject = {});
/// First 12 digits after "sha256:".
std::string short_digest(const std::string &digest);

} // namespace gantry
