typedef struct {
    uint32_t outputs;
    const uint32_t *start;  /* [outputs + 1] into the next two */
    const uint16_t *column; /* input of each weight */
#if POLICY_SHARED
    const uint8_t *index; /* of each weight, into the next */
    const float *level;
#else
    const float *weight;
#endif
    const float *bias;
POLICY_RELU_FIELD} policy_layer;

#if POLICY_SHARED
#define POLICY_WEIGHT(layer, k) ((layer)->level[(layer)->index[k]])
#else
#define POLICY_WEIGHT(layer, k) ((layer)->weight[k])
#endif

POLICY_NETWORKS

/* Rows of POLICY_LANES candidates: unit u of candidate l is x[u * POLICY_LANES + l]. */
static void policy_apply(const policy_layer *layer, int relu, const float *x, float *y)
{
    uint32_t row, k;
    int l;

    for (row = 0; row < layer->outputs; row++) {
        /* Four sums, so that one addition need not wait for the one before. */
        float sum[4][POLICY_LANES];
        const uint32_t end = layer->start[row + 1];
        const uint32_t whole = layer->start[row] + (end - layer->start[row]) / 4 * 4;

        for (l = 0; l < POLICY_LANES; l++) {
            sum[0][l] = layer->bias[row];
            sum[1][l] = sum[2][l] = sum[3][l] = 0.0f;
        }
        for (k = layer->start[row]; k < whole; k += 4) {
            const float *x0 = x + layer->column[k] * POLICY_LANES, *x1 = x + layer->column[k + 1] * POLICY_LANES;
            const float *x2 = x + layer->column[k + 2] * POLICY_LANES, *x3 = x + layer->column[k + 3] * POLICY_LANES;

            for (l = 0; l < POLICY_LANES; l++) {
                sum[0][l] += POLICY_WEIGHT(layer, k) * x0[l];
                sum[1][l] += POLICY_WEIGHT(layer, k + 1) * x1[l];
                sum[2][l] += POLICY_WEIGHT(layer, k + 2) * x2[l];
                sum[3][l] += POLICY_WEIGHT(layer, k + 3) * x3[l];
            }
        }
        for (; k < end; k++)
            for (l = 0; l < POLICY_LANES; l++)
                sum[0][l] += POLICY_WEIGHT(layer, k) * x[layer->column[k] * POLICY_LANES + l];
        for (l = 0; l < POLICY_LANES; l++) {
            const float total = (sum[0][l] + sum[1][l]) + (sum[2][l] + sum[3][l]);
            y[row * POLICY_LANES + l] = relu && total < 0.0f ? 0.0f : total;
        }
    }
}

/* Input in a; the result is where the return value points, a or b. */
static const float *policy_run(const policy_layer *layers, int count, float *a, float *b)
{
    int i;

    for (i = 0; i < count; i++) {
        float *swap = a;
        policy_apply(&layers[i], POLICY_RELU, a, b);
        a = b;
        b = swap;
    }
    return a;
}

#if POLICY_LATENT_DIM || POLICY_PERTURBED
static float policy_clip(float value, float low, float high)
{
    return value < low ? low : value > high ? high : value;
}
#endif

static void policy_fill(float *x, const float *state, const float *rest, int rest_dim)
{
    int i, l;

    for (i = 0; i < POLICY_OBSERVATION_DIM; i++)
        for (l = 0; l < POLICY_LANES; l++)
            x[i * POLICY_LANES + l] = state[i];
    for (i = 0; i < rest_dim * POLICY_LANES; i++)
        x[POLICY_OBSERVATION_DIM * POLICY_LANES + i] = rest[i];
}

void policy_act(const float *observation, const float *noise, float *action)
{
    float state[POLICY_OBSERVATION_DIM];
    float actions[POLICY_ACTION_DIM * POLICY_LANES];
    float a[POLICY_WIDTH * POLICY_LANES], b[POLICY_WIDTH * POLICY_LANES];
    const float *out;
    int first, i;
#if POLICY_LATENT_DIM || POLICY_RANKED
    int l;
#endif
#if POLICY_LATENT_DIM
    float latents[POLICY_LATENT_DIM * POLICY_LANES];
#else
    const float *const latents = noise; /* not read */
#endif
#if POLICY_RANKED
    float best = 0.0f;
#endif

    for (i = 0; i < POLICY_OBSERVATION_DIM; i++)
        state[i] = (observation[i] - policy_mean[i]) / policy_std[i];
    for (first = 0; first < POLICY_CANDIDATES; first += POLICY_LANES) {
#if POLICY_LATENT_DIM
        for (l = 0; l < POLICY_LANES; l++) {
            /* The last lanes repeat the last candidate, which cannot win twice. */
            const int row = first + l < POLICY_CANDIDATES ? first + l : POLICY_CANDIDATES - 1;
            for (i = 0; i < POLICY_LATENT_DIM; i++)
                latents[i * POLICY_LANES + l] =
                    policy_clip(noise[row * POLICY_LATENT_DIM + i], -POLICY_LATENT_CLIP, POLICY_LATENT_CLIP);
        }
#endif
        policy_fill(a, state, latents, POLICY_LATENT_DIM);
        out = policy_run(policy_propose, POLICY_LENGTH(policy_propose), a, b);
        for (i = 0; i < POLICY_ACTION_DIM * POLICY_LANES; i++) {
            const int d = i / POLICY_LANES;
            actions[i] = policy_center[d] + policy_scale[d] * tanhf(out[i]);
        }
#if POLICY_PERTURBED
        policy_fill(a, state, actions, POLICY_ACTION_DIM);
        out = policy_run(policy_perturb, POLICY_LENGTH(policy_perturb), a, b);
        for (i = 0; i < POLICY_ACTION_DIM * POLICY_LANES; i++) {
            const int d = i / POLICY_LANES;
            actions[i] = policy_clip(actions[i] + policy_change[d] * tanhf(out[i]), policy_low[d], policy_high[d]);
        }
#endif
#if POLICY_RANKED
        policy_fill(a, state, actions, POLICY_ACTION_DIM);
        out = policy_run(policy_rank, POLICY_LENGTH(policy_rank), a, b);
        for (l = 0; l < POLICY_LANES; l++) {
            if ((first > 0 || l > 0) && !(out[l] > best))
                continue;
            best = out[l];
            for (i = 0; i < POLICY_ACTION_DIM; i++)
                action[i] = actions[i * POLICY_LANES + l];
        }
#else
        for (i = 0; i < POLICY_ACTION_DIM; i++)
            action[i] = actions[i];
#endif
    }
}

/* Latents that need no storage: a linear congruential generator, uniform in [-1, 1). */
#define POLICY_NOISE (POLICY_CANDIDATES * POLICY_LATENT_DIM)

static void policy_test_noise(uint32_t seed, float *noise)
{
    int i;

    for (i = 0; i < POLICY_NOISE; i++) {
        seed = seed * 1664525u + 1013904223u;
        noise[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
}

int policy_self_test(void)
{
    static float noise[POLICY_NOISE + 1]; /* C knows no empty arrays */
    float action[POLICY_ACTION_DIM];
    int test, i;

    for (test = 0; test < POLICY_TESTS; test++) {
        const float *expected = policy_test_action + test * POLICY_ACTION_DIM;

        policy_test_noise(policy_test_seed[test], noise);
        policy_act(policy_test_observation + test * POLICY_OBSERVATION_DIM, noise, action);
        for (i = 0; i < POLICY_ACTION_DIM; i++)
            /* Negated, so that a NaN fails. */
            if (!(fabsf(action[i] - expected[i]) <= 1e-4f * (1.0f + policy_scale[i])))
                return test + 1;
    }
    return 0;
}

#ifdef POLICY_MAIN
#include <stdio.h>

int main(void)
{
    const int failed = policy_self_test();

    if (failed)
        printf("self-test %d of %d failed\n", failed, POLICY_TESTS);
    else
        printf("%d self-tests passed\n", POLICY_TESTS);
    return failed ? 1 : 0;
}
#endif
