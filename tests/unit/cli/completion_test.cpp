#include "core/cli/completion.h"

#include "core/cli/command.h"

#include <gantry/error.hpp>

#include <gtest/gtest.h>

#include <algorithm>

namespace gantry::cli {
namespace {

bool offers(const Candidates &found, const std::string &value) {
    return std::any_of(found.values.begin(), found.values.end(),
                       [&](const auto &candidate) { return candidate.first == value; });
}

// Nobody answers there, so nothing but the table can be offered.
Candidates ask(std::vector<std::string> words) {
    words.insert(words.begin(), {"-H", "unix:///nonexistent/gantry.sock"});
    return complete(words);
}

TEST(Completion, OffersCommandsAndGroups) {
    const Candidates found = ask({""});
    EXPECT_TRUE(offers(found, "run"));
    EXPECT_TRUE(offers(found, "volume"));
    EXPECT_FALSE(offers(found, "volume ls"));
    for (const auto &[value, doc] : found.values) {
        EXPECT_FALSE(value.starts_with("__")) << value;
        EXPECT_FALSE(doc.empty()) << value;
    }
    const Candidates r = ask({"ru"});
    ASSERT_EQ(r.values.size(), 1u);
    EXPECT_EQ(r.values[0].first, "run");
}

TEST(Completion, OffersMembersOfAGroup) {
    const Candidates found = ask({"volume", ""});
    EXPECT_TRUE(offers(found, "ls"));
    EXPECT_TRUE(offers(found, "create"));
    EXPECT_FALSE(offers(found, "run"));
}

TEST(Completion, OffersFlagsOfTheCommandAlone) {
    const Candidates found = ask({"run", "--na"});
    ASSERT_EQ(found.values.size(), 1u);
    EXPECT_EQ(found.values[0].first, "--name");
    EXPECT_TRUE(ask({"ps", "--name"}).values.empty());
}

TEST(Completion, OffersValuesOfAFlag) {
    const Candidates found = ask({"run", "--restart", "on"});
    ASSERT_EQ(found.values.size(), 1u);
    EXPECT_EQ(found.values[0].first, "on-failure");
    EXPECT_TRUE(offers(ask({"run", "--network", ""}), "host"));
    EXPECT_TRUE(ask({"run", "--env-file", ""}).files);
}

TEST(Completion, BehindTheImageTheContainersOwnWordsStand) {
    const Candidates found = ask({"run", "-it", "--name", "x", "busybox", "--na"});
    EXPECT_TRUE(found.values.empty());
    EXPECT_TRUE(found.files);
    EXPECT_FALSE(ask({"run", "-it", "--name", "x", ""}).files);
}

TEST(Completion, NeedsNoDaemonAndStartsNone) {
    EXPECT_TRUE(ask({"stop", ""}).values.empty());
    EXPECT_TRUE(ask({"completion", "f"}).values.size() == 1);
}

TEST(Completion, ScriptsForThreeShells) {
    for (const char *shell : {"bash", "zsh", "fish"})
        EXPECT_NE(completion_script(shell).find("__complete --"), std::string::npos) << shell;
    EXPECT_THROW(completion_script("csh"), Error);
}

TEST(Manual, NamesEveryCommandAndEscapesWhatRoffWouldRead) {
    const std::string page = manual_page();
    for (const Command *command : all_commands()) {
        const std::string name = command->name;
        std::string heading = ".SS gantry ";
        for (char c : name)
            heading += c == '-' ? std::string("\\-") : std::string(1, c);
        EXPECT_EQ(page.find(heading) != std::string::npos, !name.starts_with("__")) << name;
    }
    EXPECT_NE(page.find("\\fB\\-\\-name\\fR"), std::string::npos);
    EXPECT_EQ(page.find("\n."), page.find("\n.SH"));
}

} // namespace
} // namespace gantry::cli
