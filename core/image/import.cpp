// docker import: a tar stream becomes an image of one layer. Its diff id is known only when the stream has
// ended, so the layer is made without an expectation and the config is written from what came out.
#include "core/base/ids.h"
#include "core/content/content.h"
#include "core/image/download.h"
#include "core/image/impl.h"
#include "core/image/instructions.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

#include <boost/json.hpp>

namespace gantry {
namespace json = boost::json;

std::string make_import_config(const ImportConfig &from) {
    json::object config;
    apply_instructions(config, from.changes);
    const std::string created = rfc3339(from.created_ns);
    json::object document{
        {"architecture", from.platform.architecture},
        {"os", from.platform.os},
        {"created", created},
        {"config", config},
        {"rootfs", {{"type", "layers"}, {"diff_ids", json::array{from.diff_id}}}},
        {"history", json::array{json::object{{"created", created}, {"comment", from.message}}}}};
    if (!from.platform.variant.empty()) document["variant"] = from.platform.variant;
    if (!from.message.empty()) document["comment"] = from.message;
    return json::serialize(document);
}

std::string Images::import(const std::function<size_t(void *, size_t)> &tar,
                           const std::optional<ImageReference> &ref, const std::string &message,
                           const std::vector<std::string> &changes, const std::string &platform,
                           const CancelSource &cancel) {
    ImportConfig document;
    document.message = message.empty() ? "Imported from -" : message;
    document.created_ns = wall_ns();
    document.platform = parse_platform(platform);
    document.changes = changes;
    document.diff_id = "sha256:";
    make_import_config(document); // bad changes are refused before a byte is read

    if (ref) impl_->admit(*ref, {}, "import", std::nullopt, cancel);
    const Impl::Work work(*impl_);
    auto making = impl_->layers.begin({}, "");
    CallScope scope(cancelled_by(cancel));
    making->unpack(
        [&](void *buffer, size_t size) {
            if (cancel.cancelled())
                throw Error(ErrorClass::kCancelled, "import image: cancelled by the caller");
            return tar(buffer, size);
        },
        scope);
    const Layer layer = making->finish("");
    document.diff_id = layer.diff_id;
    const std::string config = make_import_config(document);
    const std::string id = impl_->content.put(config, "application/vnd.oci.image.config.v1+json");

    Impl::Commit what;
    what.id = id;
    what.config = config;
    // The layer's compressed form does not exist; a push would make it. The manifest names the tar.
    const std::string manifest =
        make_manifest({"application/vnd.oci.image.config.v1+json", id, config.size()},
                      {{"application/vnd.oci.image.layer.v1.tar", layer.diff_id, layer.size}});
    what.manifest = impl_->content.put(manifest, "application/vnd.oci.image.manifest.v1+json");
    what.top_layer = layer.id;
    what.size = layer.size;
    what.created_ns = document.created_ns;
    what.ref = ref;
    if (what.ref && what.ref->tag.empty()) what.ref->tag = "latest";
    impl_->commit(what);
    impl_->publish("import", id, what.ref ? what.ref->familiar() : id);
    return id;
}

} // namespace gantry
