// cgroup v2 has no device files: what a group may open is decided by a BPF program attached to it. The
// rules are checked from the last to the first, so that the last one that matches decides, as in v1.
#include "core/runtime/cgroups.h"

#include "core/base/files.h"

#include <gantry/error.hpp>

#include <cstddef>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace gantry {
namespace {

bpf_insn instruction(int code, int dst, int src, int off, int imm) {
    bpf_insn i{};
    i.code = uint8_t(code), i.dst_reg = uint8_t(dst) & 15, i.src_reg = uint8_t(src) & 15, i.off = short(off),
    i.imm = imm;
    return i;
}

std::vector<bpf_insn> device_program(const std::vector<SpecDeviceRule> &rules) {
    // r2 type, r3 access, r4 major, r5 minor
    auto load = [](int reg, size_t field) {
        return instruction(BPF_LDX | BPF_MEM | BPF_W, reg, BPF_REG_1, int(field), 0);
    };
    std::vector<bpf_insn> out = {
        load(BPF_REG_2, offsetof(bpf_cgroup_dev_ctx, access_type)),
        instruction(BPF_ALU | BPF_MOV | BPF_X, BPF_REG_3, BPF_REG_2, 0, 0),
        instruction(BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 0xffff),
        instruction(BPF_ALU | BPF_RSH | BPF_K, BPF_REG_3, 0, 0, 16),
        load(BPF_REG_4, offsetof(bpf_cgroup_dev_ctx, major)),
        load(BPF_REG_5, offsetof(bpf_cgroup_dev_ctx, minor)),
    };
    for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule) {
        int access = 0;
        for (char c : rule->access)
            access |= c == 'm'   ? BPF_DEVCG_ACC_MKNOD
                      : c == 'r' ? BPF_DEVCG_ACC_READ
                      : c == 'w' ? BPF_DEVCG_ACC_WRITE
                                 : 0;
        std::vector<bpf_insn> tests;
        if (rule->type != 'a')
            tests.push_back(instruction(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_2, 0, 0,
                                        rule->type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR));
        if (access != 7) {
            tests.push_back(instruction(BPF_ALU | BPF_MOV | BPF_X, BPF_REG_0, BPF_REG_3, 0, 0));
            // An allow rule must cover every wanted access; a deny rule takes any.
            tests.push_back(
                instruction(BPF_ALU | BPF_AND | BPF_K, BPF_REG_0, 0, 0, rule->allow ? 7 & ~access : access));
            tests.push_back(
                instruction(BPF_JMP | (rule->allow ? BPF_JNE : BPF_JEQ) | BPF_K, BPF_REG_0, 0, 0, 0));
        }
        if (rule->major >= 0)
            tests.push_back(instruction(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_4, 0, 0, int(rule->major)));
        if (rule->minor >= 0)
            tests.push_back(instruction(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_5, 0, 0, int(rule->minor)));
        for (size_t i = 0; i < tests.size(); i++)
            if (BPF_CLASS(tests[i].code) == BPF_JMP) tests[i].off = short(tests.size() - i - 1 + 2);
        out.insert(out.end(), tests.begin(), tests.end());
        out.push_back(instruction(BPF_ALU | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, rule->allow));
        out.push_back(instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
        if (tests.empty()) return out; // decides everything; the verifier refuses what cannot be reached
    }
    out.push_back(instruction(BPF_ALU | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0));
    out.push_back(instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
    return out;
}

} // namespace

void attach_device_program(const std::string &dir, const std::vector<SpecDeviceRule> &rules) {
    auto program = device_program(rules);
    bpf_attr attr{};
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insns = uint64_t(uintptr_t(program.data()));
    attr.insn_cnt = uint32_t(program.size());
    attr.license = uint64_t(uintptr_t("GPL"));
    UniqueFd loaded(int(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr)));
    if (!loaded) throw Error::from_errno(errno, "load device rules of cgroup " + dir);
    UniqueFd group = open_file(dir, O_RDONLY | O_DIRECTORY);
    attr = {};
    attr.target_fd = uint32_t(group.get());
    attr.attach_bpf_fd = uint32_t(loaded.get());
    attr.attach_type = BPF_CGROUP_DEVICE;
    attr.attach_flags = BPF_F_ALLOW_MULTI;
    if (syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr) != 0)
        throw Error::from_errno(errno, "attach device rules to cgroup " + dir);
}

} // namespace gantry
