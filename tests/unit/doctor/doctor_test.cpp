#include "core/doctor/doctor.h"

#include "core/base/files.h"

#include <boost/json.hpp>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <unistd.h>

namespace gantry::doctor {
namespace {

namespace fs = std::filesystem;

const Finding *find(const Findings &findings, const std::string &area, const std::string &subject) {
    for (const Finding &finding : findings)
        if (finding.area == area && finding.subject == subject) return &finding;
    return nullptr;
}

class Doctor : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = (fs::temp_directory_path() / "doctor-XXXXXX").string();
        ASSERT_TRUE(mkdtemp(pattern.data()));
        dir = pattern;
    }
    void TearDown() override { fs::remove_all(dir); }
    std::string config(const std::string &text) {
        std::ofstream(dir / "gantry.toml") << text;
        return (dir / "gantry.toml").string();
    }
    fs::path dir;
};

TEST_F(Doctor, ReportsWhatIsWrongWithTheRemedyBelow) {
    const Findings findings{{"kernel", "overlay", Verdict::kOk, "works", ""},
                            {"files", "space", Verdict::kWarning, "1 GiB free", "prune"}};
    EXPECT_EQ(as_text(findings, false), "kernel\n"
                                        "  ok      overlay  works\n"
                                        "\n"
                                        "files\n"
                                        "  warning space    1 GiB free\n"
                                        "                   -> prune\n"
                                        "\n2 checks: 0 errors, 1 warnings, 0 notices\n");
    EXPECT_NE(as_text(findings, true).find("\033[33m"), std::string::npos);
}

TEST_F(Doctor, JsonCarriesEveryField) {
    Findings findings{{"files", "space", Verdict::kWarning, "1 GiB \"free\"", "prune"}};
    boost::json::value report = boost::json::parse(as_json(findings));
    EXPECT_TRUE(report.at("ok").as_bool());
    EXPECT_EQ(report.at("findings").at(0), boost::json::value({{"area", "files"},
                                                               {"subject", "space"},
                                                               {"verdict", "warning"},
                                                               {"found", "1 GiB \"free\""},
                                                               {"remedy", "prune"}}));
    findings[0].verdict = Verdict::kError;
    EXPECT_FALSE(boost::json::parse(as_json(findings)).at("ok").as_bool());
}

TEST_F(Doctor, MisspeltOptionIsAFindingWithItsPlace) {
    Findings findings;
    const std::string file = config("[engine]\nroott = \"/x\"\n");
    examine_engine(file, findings);
    const Finding *finding = find(findings, "configuration", file);
    ASSERT_TRUE(finding);
    EXPECT_EQ(finding->verdict, Verdict::kError);
    EXPECT_NE(finding->found.find("gantry.toml:2:"), std::string::npos) << finding->found;
    EXPECT_NE((finding->found + finding->remedy).find("root"), std::string::npos);
}

TEST_F(Doctor, MissingBackendNamesItsPackage) {
    Findings findings;
    examine_engine(config("[engine]\nroot = \"" + (dir / "root").string() + "\"\nplugin_dirs = [\"" +
                          dir.string() + "\"]\n[storage]\ndriver = \"btrfs\"\n"),
                   findings);
    const Finding *finding = find(findings, "plugins", "storage driver");
    ASSERT_TRUE(finding);
    EXPECT_EQ(finding->verdict, Verdict::kError);
    EXPECT_NE(finding->remedy.find("gantry-plugin-storage-btrfs"), std::string::npos) << finding->remedy;
}

TEST_F(Doctor, BrokenPluginIsListedAndStopsNobody) {
    std::ofstream(dir / "broken.so") << "not a library";
    Findings findings;
    examine_engine(config("[engine]\nplugin_dirs = [\"" + dir.string() + "\"]\n"), findings);
    const Finding *finding = find(findings, "plugins", "broken.so");
    ASSERT_TRUE(finding);
    EXPECT_EQ(finding->verdict, Verdict::kWarning);
    EXPECT_NE(find(findings, "engine", "socket"), nullptr) << "later checks were not made";
}

TEST_F(Doctor, KnowsTheFileSystemOfARootThatIsNotThereYet) {
    Findings findings;
    examine_files((dir / "not" / "yet").string(), findings);
    const Finding *finding = find(findings, "files", "root");
    ASSERT_TRUE(finding);
    EXPECT_NE(finding->found.find("not made yet, " + dir.string()), std::string::npos) << finding->found;
    EXPECT_TRUE(find(findings, "files", "space"));
    EXPECT_TRUE(fs::is_empty(dir)) << "the probe left something";
}

TEST_F(Doctor, SubnetReachedElsewhereIsAWarning) {
    std::ifstream routes("/proc/net/route");
    std::string line, taken;
    std::getline(routes, line);
    while (std::getline(routes, line)) {
        char name[32];
        unsigned destination = 0, mask = 0;
        if (sscanf(line.c_str(), "%31s %x %*x %*x %*d %*d %*d %x", name, &destination, &mask) != 3) continue;
        if (__builtin_bswap32(mask) < 0xff000000u) continue;
        char text[64];
        snprintf(text, sizeof text, "%u.%u.%u.%u/%d", destination & 255, destination >> 8 & 255,
                 destination >> 16 & 255, destination >> 24, __builtin_popcount(mask));
        taken = text;
    }
    if (taken.empty()) GTEST_SKIP() << "the host has no route but the default one";
    Findings findings;
    examine_network({{taken, "240.0.0.0/8"}, "nobody0"}, findings);
    ASSERT_TRUE(find(findings, "network", "subnet " + taken));
    EXPECT_EQ(find(findings, "network", "subnet " + taken)->verdict, Verdict::kWarning);
    EXPECT_EQ(find(findings, "network", "subnet 240.0.0.0/8")->verdict, Verdict::kOk);
}

TEST_F(Doctor, KernelChecksAllSayWhatTheyFound) {
    Findings findings;
    examine_kernel(findings);
    examine_cgroups("/gantry-doctor-test", findings);
    for (const char *subject : {"version", "namespaces", "openat2", "pidfd", "seccomp filters", "overlay"})
        EXPECT_TRUE(find(findings, "kernel", subject)) << subject;
    EXPECT_TRUE(find(findings, "cgroups", "memory"));
    for (const Finding &finding : findings) {
        EXPECT_FALSE(finding.found.empty()) << finding.subject;
        if (finding.verdict >= Verdict::kWarning) {
            EXPECT_FALSE(finding.remedy.empty()) << finding.subject;
        }
    }
    EXPECT_FALSE(path_exists("/sys/fs/cgroup/gantry-doctor-test"));
    EXPECT_FALSE(path_exists("/sys/fs/cgroup/memory/gantry-doctor-test"));
}

TEST_F(Doctor, RefusesUnknownArguments) {
    EXPECT_EQ(run({"--format", "xml"}), 1);
    EXPECT_EQ(run({"--verbose"}), 1);
}

} // namespace
} // namespace gantry::doctor
