// Builds start plans, and what start needs beside the plan: see plan.h for the format.
#pragma once

#include "core/base/fd.h"
#include "core/runtime/plan.h"
#include "core/runtime/runtime.h"

#include <initializer_list>
#include <string>
#include <vector>

namespace gantry {

struct CgroupLayout;

class PlanWriter {
  public:
    PlanWriter();
    void add(plan::Type type, const std::vector<uint64_t> &numbers, const std::vector<std::string> &texts);
    /// The finished bytes; the writer may go on.
    std::string bytes() const;
    /// A sealed memfd with the bytes.
    UniqueFd memfd() const;

  private:
    std::string data_;
    uint32_t count_ = 0;
};

/// The plan of the sandbox half.
PlanWriter compile_sandbox(const std::vector<SpecNamespace> &namespaces,
                           const std::vector<std::string> &cgroup_dirs, bool joined);
struct CompileContext {
    const CgroupLayout *layout;
    std::vector<std::string> cgroup_dirs;
    std::string root_path, id, group; // group: cgroup below each hierarchy
    bool exec = false;
};
/// The start half: mounts, devices, identity, seccomp. Throws Error on what the native runtime lacks.
PlanWriter compile_start(const RuntimeSpec &spec, const StartExtras &extras, const CompileContext &context);

/// Mount words split as the kernel wants them.
struct ParsedOptions {
    uint64_t attributes = 0, propagation = 0;
    bool bind = false, recursive = false;
    std::vector<std::string> data;
};
ParsedOptions parse_mount_options(const std::vector<std::string> &options);

/// The BPF program of a policy for x86_64, x86 and x32, as sock_filter bytes.
std::string compile_seccomp(const SpecSeccomp &policy);

} // namespace gantry
