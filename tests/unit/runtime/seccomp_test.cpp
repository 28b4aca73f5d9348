// The compiled filter against libseccomp's of the same policy: both run in a BPF interpreter over every
// system call number and the arguments that matter. They may differ in one point only: numbers newer
// than the policy give ENOSYS.
// The default policies are also held against the filters that Docker itself installed, without exception.
#include "core/runtime/plan_writer.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cstring>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <map>
#include <seccomp.h>
#include <set>
#include <sys/mman.h>
#include <unistd.h>

namespace gantry {
namespace {

using Program = std::vector<sock_filter>;

uint32_t run(const Program &program, const seccomp_data &data) {
    uint32_t a = 0, x = 0, memory[16] = {};
    for (size_t pc = 0; pc < program.size(); pc++) {
        const sock_filter &i = program[pc];
        uint32_t operand = BPF_SRC(i.code) == BPF_X ? x : i.k;
        switch (BPF_CLASS(i.code)) {
        case BPF_LD:
            if (BPF_MODE(i.code) == BPF_MEM)
                a = memory[i.k & 15];
            else if (BPF_MODE(i.code) == BPF_IMM)
                a = i.k;
            else
                memcpy(&a, reinterpret_cast<const char *>(&data) + i.k, 4);
            break;
        case BPF_LDX: x = BPF_MODE(i.code) == BPF_MEM ? memory[i.k & 15] : i.k; break;
        case BPF_ST: memory[i.k & 15] = a; break;
        case BPF_STX: memory[i.k & 15] = x; break;
        case BPF_ALU:
            if (BPF_OP(i.code) == BPF_AND)
                a &= operand;
            else if (BPF_OP(i.code) == BPF_OR)
                a |= operand;
            else
                ADD_FAILURE() << "unknown arithmetic";
            break;
        case BPF_JMP: {
            bool yes = BPF_OP(i.code) == BPF_JEQ   ? a == operand
                       : BPF_OP(i.code) == BPF_JGT ? a > operand
                       : BPF_OP(i.code) == BPF_JGE ? a >= operand
                                                   : (a & operand) != 0;
            if (BPF_OP(i.code) == BPF_JA)
                pc += i.k;
            else
                pc += yes ? i.jt : i.jf;
            break;
        }
        case BPF_RET: return i.k;
        case BPF_MISC: BPF_MISCOP(i.code) == BPF_TAX ? void(x = a) : void(a = x); break;
        }
    }
    ADD_FAILURE() << "the program ran off its end";
    return 0xdead;
}

Program ours(const SpecSeccomp &policy) {
    std::string bytes = compile_seccomp(policy);
    Program program(bytes.size() / sizeof(sock_filter));
    memcpy(program.data(), bytes.data(), bytes.size());
    return program;
}

uint32_t scmp_action(const std::string &name, std::optional<uint32_t> value) {
    return name == "SCMP_ACT_ALLOW"   ? SCMP_ACT_ALLOW
           : name == "SCMP_ACT_ERRNO" ? SCMP_ACT_ERRNO(value.value_or(1))
                                      : SCMP_ACT_KILL_PROCESS;
}

Program theirs(const SpecSeccomp &policy) {
    uint32_t fallback = scmp_action(policy.default_action, policy.default_errno_ret);
    scmp_filter_ctx context = seccomp_init(fallback);
    for (auto [name, token] : {std::pair{"SCMP_ARCH_X86_64", SCMP_ARCH_X86_64},
                               {"SCMP_ARCH_X86", SCMP_ARCH_X86},
                               {"SCMP_ARCH_X32", SCMP_ARCH_X32}})
        if (std::find(policy.architectures.begin(), policy.architectures.end(), name) !=
            policy.architectures.end())
            seccomp_arch_add(context, uint32_t(token));
    for (const auto &rule : policy.rules)
        for (const auto &name : rule.names) {
            int number = seccomp_syscall_resolve_name(name.c_str());
            uint32_t action = scmp_action(rule.action, rule.errno_ret);
            if (number == __NR_SCMP_ERROR || action == fallback) continue;
            std::vector<scmp_arg_cmp> args;
            for (const auto &arg : rule.args) {
                scmp_compare op = arg.op == "SCMP_CMP_EQ"   ? SCMP_CMP_EQ
                                  : arg.op == "SCMP_CMP_NE" ? SCMP_CMP_NE
                                  : arg.op == "SCMP_CMP_LT" ? SCMP_CMP_LT
                                  : arg.op == "SCMP_CMP_LE" ? SCMP_CMP_LE
                                  : arg.op == "SCMP_CMP_GT" ? SCMP_CMP_GT
                                  : arg.op == "SCMP_CMP_GE" ? SCMP_CMP_GE
                                                            : SCMP_CMP_MASKED_EQ;
                args.push_back({arg.index, op, arg.value, arg.value_two});
            }
            EXPECT_EQ(0, seccomp_rule_add_array(context, action, number, unsigned(args.size()), args.data()))
                << name;
        }
    int fd = memfd_create("bpf", 0);
    EXPECT_EQ(0, seccomp_export_bpf(context, fd));
    seccomp_release(context);
    Program program(size_t(lseek(fd, 0, SEEK_END)) / sizeof(sock_filter));
    EXPECT_EQ(ssize_t(program.size() * sizeof(sock_filter)),
              pread(fd, program.data(), program.size() * sizeof(sock_filter), 0));
    close(fd);
    return program;
}

void compare(const SpecSeccomp &policy, uint32_t enosys_ok = SECCOMP_RET_ERRNO | 38) {
    Program a = ours(policy), b = theirs(policy);
    const uint64_t kValues[] = {0,           1,           2,           8,          9,
                                10,          16,          0x11,        0x20000,    0x20008,
                                0x7e020000,  0x10000000,  0x00020011,  0x80000000, 0xffffffff,
                                0x100000000, 0x100000008, 0x1ffffffff, ~0ull};
    size_t newer = 0, differences = 0;
    for (uint32_t arch :
         {uint32_t(AUDIT_ARCH_X86_64), uint32_t(AUDIT_ARCH_I386), uint32_t(AUDIT_ARCH_AARCH64)})
        for (uint32_t base : {0u, 0x40000000u}) {
            if (base && arch != AUDIT_ARCH_X86_64) continue;
            for (uint32_t nr = 0; nr < 700; nr++)
                for (uint64_t value : kValues) {
                    seccomp_data data{};
                    data.nr = int(base + nr), data.arch = arch;
                    for (int i = 0; i < 6; i++)
                        data.args[i] = (nr + unsigned(i)) % 3 ? value : value + unsigned(i);
                    data.args[0] = data.args[1] = value;
                    // On 32 bits the kernel zero-extends.
                    if (arch == AUDIT_ARCH_I386)
                        for (auto &arg : data.args)
                            arg = uint32_t(arg);
                    uint32_t got = run(a, data), wanted = run(b, data);
                    if (got == wanted) continue;
                    if (got == enosys_ok && nr >= 400 && wanted == (SECCOMP_RET_ERRNO | 1)) {
                        newer++;
                        continue;
                    }
                    if (differences++ < 10)
                        ADD_FAILURE()
                            << std::hex << "arch " << arch << " nr " << std::dec << base + nr << " value "
                            << value << std::hex << ": " << got << " instead of " << wanted;
                }
        }
    EXPECT_EQ(0u, differences);
    if (enosys_ok) {
        EXPECT_GT(newer, 0u);
    }
}

// What dockerd 20.10.24 with runc 1.1.5 installs, read from a container's first process.
const Program kDockerDefault = {
#include "docker_20_10_default.bpf"
};
const Program kDockerNoCaps = {
#include "docker_20_10_no_caps.bpf"
};
// Without CAP_SYS_RESOURCE, which opens no call.
const Program kDockerAllCaps = {
#include "docker_20_10_all_caps.bpf"
};

/// The calls with a verdict by argument, and those where one would be plausible.
bool by_argument(uint32_t token, uint32_t number) {
    for (const char *name : {"clone", "clone3", "personality", "socket", "socketcall", "ipc", "unshare",
                             "setns", "prctl", "ioctl", "arch_prctl", "seccomp"})
        if (seccomp_syscall_resolve_name_arch(token, name) == int(number)) return true;
    return token == SCMP_ARCH_X86 && number == 359; // socket; the name gives socketcall's pseudo number
}

void compare_with_docker(const Program &docker, const SpecSeccomp &policy) {
    Program gantry = ours(policy);
    const std::vector<uint64_t> few = {0, 1, 0x10000000, 0xffffffff, ~0ull};
    std::vector<uint64_t> many = {0x20008,    0x7e020000,  0x00020011,  0x003d0f00,         0x01200011,
                                  0xffffffff, 0x100000008, 0x1ffffffff, 0xffffffff00000008, ~0ull};
    for (uint64_t i = 0; i < 64; i++)
        many.insert(many.end(), {i, uint64_t(1) << i, uint64_t(1) << i | 17, uint64_t(1) << i | 8});
    struct {
        uint32_t arch, base, token;
    } const kArchs[] = {{AUDIT_ARCH_X86_64, 0, SCMP_ARCH_X86_64},
                        {AUDIT_ARCH_X86_64, 0x40000000, SCMP_ARCH_X32},
                        {AUDIT_ARCH_I386, 0, SCMP_ARCH_X86},
                        {AUDIT_ARCH_AARCH64, 0, SCMP_ARCH_AARCH64}};
    size_t differences = 0;
    for (auto [arch, base, token] : kArchs)
        for (uint32_t nr = base; nr <= base + 600; nr++)
            for (uint64_t value : by_argument(token, nr) ? many : few)
                for (bool all : {false, true}) { // the value in the first argument only, or in each
                    seccomp_data data{};
                    data.nr = int(nr), data.arch = arch;
                    // On 32 bits the kernel zero-extends.
                    for (int i = 0; i < (all ? 6 : 1); i++)
                        data.args[i] = arch == AUDIT_ARCH_I386 ? uint32_t(value) : value;
                    uint32_t got = run(gantry, data), wanted = run(docker, data);
                    if (got == wanted) continue;
                    if (differences++ < 40)
                        ADD_FAILURE()
                            << std::hex << "arch " << arch << " nr " << std::dec << nr << std::hex << " args "
                            << (all ? "all " : "first ") << value << ": " << got << ", docker " << wanted;
                }
    EXPECT_EQ(0u, differences);
}

} // namespace

TEST(Seccomp, DefaultPolicyEqualsLibseccomp) {
    auto policy = default_seccomp(default_capabilities());
    compare(policy);
    EXPECT_LT(ours(policy).size(), 700u);
    EXPECT_LT(ours(policy).size(), theirs(policy).size());
}

TEST(Seccomp, PolicyOfAPowerfulContainer) { compare(default_seccomp(all_capabilities())); }

TEST(Seccomp, DefaultPolicyEqualsDocker) {
    compare_with_docker(kDockerDefault, default_seccomp(default_capabilities()));
}

TEST(Seccomp, PolicyWithoutCapabilitiesEqualsDocker) {
    compare_with_docker(kDockerNoCaps, default_seccomp({}));
}

TEST(Seccomp, PolicyWithAllCapabilitiesEqualsDocker) {
    compare_with_docker(kDockerAllCaps, default_seccomp(all_capabilities()));
}

// From the filters of containers with one capability each: what it opens on x86_64 beyond no capabilities.
TEST(Seccomp, EachCapabilityOpensWhatDockerOpens) {
    std::map<std::string, std::set<uint32_t>> docker = {
        {"CAP_DAC_READ_SEARCH", {304}},
        {"CAP_SYSLOG", {103}},
        {"CAP_SYS_ADMIN", {56,  103, 165, 166, 170, 171, 179, 212, 272, 298, 300, 303,
                           308, 321, 428, 429, 430, 431, 432, 433, 435, 442, 443}},
        {"CAP_SYS_BOOT", {169}},
        {"CAP_SYS_CHROOT", {161}},
        {"CAP_SYS_MODULE", {175, 176, 313}},
        {"CAP_SYS_NICE", {237, 238, 239}},
        {"CAP_SYS_PACCT", {163}},
        {"CAP_SYS_PTRACE", {310, 311, 312, 438, 440}},
        {"CAP_SYS_RAWIO", {172, 173}},
        {"CAP_SYS_TIME", {164, 227}},
        {"CAP_SYS_TTY_CONFIG", {153}},
    };
    const Program none = ours(default_seccomp({}));
    for (const auto &capability : all_capabilities()) {
        const Program with = ours(default_seccomp({capability}));
        std::set<uint32_t> opened;
        for (uint32_t nr = 0; nr <= 600; nr++) {
            seccomp_data data{};
            data.nr = int(nr), data.arch = AUDIT_ARCH_X86_64, data.args[0] = 0x10000000; // CLONE_NEWUSER
            if (run(with, data) == SECCOMP_RET_ALLOW && run(none, data) != SECCOMP_RET_ALLOW)
                opened.insert(nr);
        }
        EXPECT_EQ(docker[capability], opened) << capability;
    }
}

TEST(Seccomp, CustomProfile) {
    auto policy = parse_seccomp_profile(
        R"({"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],
        "syscalls":[{"names":["mkdir","chmod"],"action":"SCMP_ACT_ERRNO","errnoRet":5},
                    {"name":"lseek","action":"SCMP_ACT_ERRNO","args":[{"index":2,"value":9,"op":"SCMP_CMP_GT"}]},
                    {"name":"getdents64","action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":4294967296,"op":"SCMP_CMP_GE"}]},
                    {"name":"fcntl","action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":8,"op":"SCMP_CMP_LT"}]},
                    {"name":"dup3","action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":16,"op":"SCMP_CMP_LE"}]},
                    {"name":"flock","action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":4294967296,"op":"SCMP_CMP_NE"}]},
                    {"name":"kexec_load","action":"SCMP_ACT_KILL","excludes":{"caps":["CAP_SYS_BOOT"]}},
                    {"name":"umask","action":"SCMP_ACT_ERRNO","includes":{"caps":["CAP_SYS_BOOT"]}}]})",
        {"CAP_SYS_BOOT"});
    EXPECT_EQ(7u, policy.rules.size());
    compare(policy, 0);
}

TEST(Seccomp, RefusesBadProfiles) {
    EXPECT_THROW(parse_seccomp_profile("{", {}), Error);
    EXPECT_THROW(parse_seccomp_profile("{}", {}), Error);
    EXPECT_THROW(parse_seccomp_profile(R"({"defaultAction":1})", {}), Error);
    EXPECT_THROW(compile_seccomp(parse_seccomp_profile(R"({"defaultAction":"SCMP_ACT_WHAT"})", {})), Error);
}

TEST(Seccomp, CapabilitiesOpenTheirCalls) {
    auto verdict = [](const std::vector<std::string> &caps, int nr, uint64_t arg) {
        seccomp_data data{};
        data.nr = nr, data.arch = AUDIT_ARCH_X86_64, data.args[0] = arg;
        return run(ours(default_seccomp(caps)), data);
    };
    EXPECT_EQ(SECCOMP_RET_ERRNO | 1u, verdict({}, 165, 0)); // mount
    EXPECT_EQ(SECCOMP_RET_ALLOW, verdict({"CAP_SYS_ADMIN"}, 165, 0));
    EXPECT_EQ(SECCOMP_RET_ERRNO | 38u, verdict({}, 435, 0));        // clone3
    EXPECT_EQ(SECCOMP_RET_ERRNO | 1u, verdict({}, 56, 0x10000000)); // clone(CLONE_NEWUSER)
    EXPECT_EQ(SECCOMP_RET_ALLOW, verdict({}, 56, 0x00010000));      // a thread
    EXPECT_EQ(SECCOMP_RET_ERRNO | 38u, verdict({}, 9999, 0));
}

} // namespace gantry
