/* vicinal: what a person at a terminal, a compose file or a script calls.  Finds the verb, reads
 * its options, runs it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "common/base/checked.h"
#include "common/base/version.h"

static const struct verb *const verbs[] = {
    &verb_up,      &verb_import,   &verb_search, &verb_status,      &verb_place, &verb_region,
    &verb_promote, &verb_snapshot, &verb_verify, &verb_healthcheck, &verb_bench, &verb_demo};

static void print_usage(FILE *out)
{
    (void)fprintf(out, "Usage: vicinal VERB [options]\n\n"
                       "Stores passages with their vectors and returns the nearest ones to a "
                       "question.\n\nVerbs:\n");
    for (size_t i = 0; i < ARRAY_COUNT(verbs); i++)
        (void)fprintf(out, "  %-13s%s\n", verbs[i]->name, verbs[i]->brief);
    (void)fprintf(out, "\n\"vicinal VERB --help\" tells more.  A first try:\n"
                       "  vicinal up --data ./data &\n"
                       "  vicinal import --collection docs ./my-documents\n"
                       "  vicinal search --collection docs \"how do I reset my password?\"\n");
}

static const struct verb *find_verb(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(verbs); i++)
        if (strcmp(verbs[i]->name, name) == 0)
            return verbs[i];
    return NULL;
}

static int run_verb(const struct verb *verb, int argc, char **argv)
{
    struct cli_operands operands = {0};
    struct options_input input = {
        .table = verb->options,
        .argc = argc,
        .argv = argv,
        .operands = verb->operand_max == 0 ? NULL : operands.items,
        .operand_max = MIN_OF(verb->operand_max, (size_t)CLI_OPERANDS_MAX),
        .operand_count = &operands.count,
    };
    void *settings = calloc(1, verb->settings_size);
    struct err err = {0};
    bool wants_help = false;
    char synopsis[256];
    int exit_code;

    if (settings == NULL) {
        (void)err_set(&err, ERR_NO_MEMORY, "no memory");
        return cli_fail(verb->name, &err);
    }
    if (options_parse(&input, settings, &wants_help, &err) != ERR_OK) {
        exit_code = cli_fail(verb->name, &err);
    } else if (wants_help) {
        (void)snprintf(synopsis, sizeof(synopsis), "vicinal %s %s", verb->name, verb->synopsis);
        options_help(stdout, synopsis, verb->about, verb->options);
        exit_code = EXIT_SUCCESS;
    } else {
        exit_code = verb->run(settings, &operands);
    }
    free(settings);
    return exit_code;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "--help";
    const struct verb *verb = find_verb(name);

    if (verb != NULL)
        return run_verb(verb, argc - 1, argv + 1);
    if (strcmp(name, "--version") == 0) {
        (void)printf("vicinal %s\n", VICINAL_VERSION);
        return EXIT_SUCCESS;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_usage(stdout);
        return EXIT_SUCCESS;
    }
    (void)fprintf(stderr, "vicinal: there is no verb \"%s\"\n\n", name);
    print_usage(stderr);
    return EXIT_CONFIG;
}
