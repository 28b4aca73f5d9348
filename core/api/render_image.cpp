// Images as Docker shows them. Older clients see keys that were dropped later (VirtualSize until 1.43,
// Container and ContainerConfig until 1.44).
#include "core/api/render.h"
#include "core/base/ids.h"
#include "core/image/images.h"
#include "core/plugin/host.h"

#include <boost/json.hpp>

namespace json = boost::json;

namespace gantry::api {

namespace {
/// The document's "config" with every key of Docker's Config.
json::object image_config(const json::object &document) {
    json::object out{{"Hostname", ""},       {"Domainname", ""},      {"User", ""},
                     {"AttachStdin", false}, {"AttachStdout", false}, {"AttachStderr", false},
                     {"Tty", false},         {"OpenStdin", false},    {"StdinOnce", false},
                     {"Env", nullptr},       {"Cmd", nullptr},        {"Image", ""},
                     {"Volumes", nullptr},   {"WorkingDir", ""},      {"Entrypoint", nullptr},
                     {"OnBuild", nullptr},   {"Labels", nullptr}};
    if (const json::value *config = document.if_contains("config"); config && config->is_object())
        for (const auto &[key, value] : config->get_object())
            out[key] = value;
    return out;
}
} // namespace

json::object render_image(const Engine &engine, const ImageInfo &image, int api_minor) {
    boost::system::error_code error;
    json::value parsed = json::parse(image.config_json, error);
    const json::object document = !error && parsed.is_object() ? parsed.get_object() : json::object();
    json::object out{{"Id", image.id},
                     {"RepoTags", strings_json(image.repo_tags)},
                     {"RepoDigests", strings_json(image.repo_digests)},
                     {"Parent", image.parent},
                     {"Comment", image.comment},
                     {"Created", rfc3339(image.created_ns)},
                     {"DockerVersion", image.docker_version},
                     {"Author", image.author},
                     {"Config", image_config(document)},
                     {"Architecture", image.architecture},
                     {"Os", image.os},
                     {"Size", image.size},
                     {"GraphDriver", {{"Data", nullptr}, {"Name", engine.plugins->storage_name()}}},
                     {"RootFS", {{"Type", "layers"}, {"Layers", strings_json(image.diff_ids)}}},
                     {"Metadata", {{"LastTagTime", rfc3339(image.tagged_ns)}}}};
    if (!image.variant.empty()) out["Variant"] = image.variant;
    if (api_minor < 44) out["VirtualSize"] = image.size;
    if (api_minor < 45) {
        out["Container"] = "";
        const json::value *container_config = document.if_contains("container_config");
        out["ContainerConfig"] = container_config ? *container_config : json::value(image_config({}));
    }
    return out;
}

json::object render_image_row(const ImageInfo &image, int api_minor, int64_t containers) {
    json::object out{{"Containers", containers},
                     {"Created", image.created_ns / 1'000'000'000},
                     {"Id", image.id},
                     {"Labels", nullptr},
                     {"ParentId", image.parent},
                     {"RepoDigests", strings_json(image.repo_digests)},
                     {"RepoTags", strings_json(image.repo_tags)},
                     {"SharedSize", -1},
                     {"Size", image.size}};
    if (!image.config.labels.empty()) out["Labels"] = labels_json(image.config.labels);
    if (api_minor < 44) {
        out["VirtualSize"] = image.size;
        // Clients before 1.43 index into these lists.
        if (image.repo_tags.empty()) out["RepoTags"] = json::array{"<none>:<none>"};
        if (image.repo_digests.empty()) out["RepoDigests"] = json::array{"<none>@<none>"};
    }
    return out;
}

} // namespace gantry::api
