// From a container's configuration to its OCI document, as Docker would write it.
#pragma once

#include "core/container/containers.h"
#include "core/container/parse.h"
#include "core/runtime/spec.h"

#include <string>
#include <vector>

namespace gantry {

/// Docker's merge of the image's configuration into the request; throws "No command specified".
void merge_image(ContainerConfig &config, const ImageConfig &image);

/// Everything the document depends on beside the configuration.
struct SpecInput {
    std::string id;
    const ContainerConfig *config = nullptr;                 // merged
    std::vector<MountPoint> mounts;                          // binds and volumes, sources settled
    std::string hosts_path, resolv_conf_path, hostname_path; // "" : none
    std::string network_path, pid_path, ipc_path;            // namespaces of other containers
    std::string shm_source;                                  // /dev/shm of the container whose ipc is joined
    std::string cgroup_parent;
    UserIds user;
};

constexpr int64_t kDefaultShmSize = int64_t{64} << 20;

/// Private modes as Docker has them: what needs a namespace of its own.
struct NamespaceWish {
    bool network = true, pid = true, ipc = true, uts = true, cgroup = true;
    bool is_default() const { return network && pid && ipc && uts && cgroup; }
};
inline bool joins_container(const std::string &mode) { return mode.starts_with("container:"); }
NamespaceWish namespace_wish(const ContainerConfig &config);
std::vector<SpecNamespace> namespaces_of(const SpecInput &input);

RuntimeSpec build_spec(const SpecInput &input);
SpecResources build_resources(const ContainerConfig &config);
/// For exec: the container's document with another process.
void apply_exec(RuntimeSpec &spec, const ContainerConfig &config, const ExecConfig &exec,
                const UserIds &user);

/// /etc/passwd and /etc/group below a root that the container controls: links are followed inside
/// of it only and the size is limited; "" when there is none.
std::string read_in_root(int root_fd, const std::string &path, size_t limit);

std::string full_hostname(const ContainerConfig &config, const std::string &id);

} // namespace gantry
