#!/bin/sh
# fathom scale fit, predict and plot: their output, and what bad input gets.
. tests/cli/lib
data=tests/data/scale

ok scale --help
cp "$dir/out" "$dir/help"
for part in fit plot predict; do
    has "$dir/help" "^  $part "
    ok scale $part --help
    has "$dir/out" "^usage: fathom scale $part"
    wrong 2 'unknown option --cvs.*--csv' scale $part --cvs x
    wrong 2 '--csv FILE and --study DIR' scale $part
done
wrong 1 'no/such.csv' scale fit --csv no/such.csv
wrong 2 'a part is missing' scale
wrong 2 'unknown part "fitt".*"fit"' scale fitt
wrong 2 'unknown option --no' scale --no

# Two budgets and more of a planted surface, E 1.7, A 400, alpha 0.34, B 1500, beta 0.36.
planted() {
    awk -v first="$1" -v budgets="$2" -v sizes="$3" 'BEGIN {
        a = 400; al = 0.34; b = 1500; be = 0.36
        g = (al * a / (be * b)) ^ (1 / (al + be))
        print "params,tokens,flops,loss"
        for (i = 0; i < budgets; i++) for (j = 0; j < sizes; j++) {
            c = first * 10 ^ i; n = g * (c / 6) ^ (be / (al + be)) * 20 ^ (j / (sizes - 1) - 0.5)
            printf "%.12g,%.12g,%.6g,%.12g\n", n, c / 6 / n, c, 1.7 + a * n ^ -al + b * (c / 6 / n) ^ -be
        }
    }'
}
planted 1e17 4 6 >"$dir/planted.csv"
ok scale fit --csv "$dir/planted.csv" --bootstrap 20 --json
has "$dir/out" '"parametric": *{"E": *{"value": *1\.[67]'
for key in envelope isoflop parametric N_exponent D_exponent A alpha B beta low high residuals countings published; do
    has "$dir/out" "\"$key\""
done
ok scale fit --csv "$dir/planted.csv" --bootstrap 20
has "$dir/out" '^  parametric .* 0\.514 \['
has "$dir/out" '^  isoflop .* 0\.5'
has "$dir/out" '^  DeepSeek LLM, OpenWebText2 .* 0\.578  0\.422'
has "$dir/out" '^  alpha  0\.3400 \['
has "$dir/out" 'Residuals of ln loss'
has "$dir/out" 'bias of the parabola'

ok scale predict --csv "$dir/planted.csv" --flops 1e21 --bootstrap 20 --json
has "$dir/out" '"method": "parametric"'
ok scale predict --csv "$dir/planted.csv" --size 1e9 --tokens 2e10 --bootstrap 20
has "$dir/out" '^loss 2\.3'
wrong 2 '--flops is missing' scale predict --csv "$dir/planted.csv"
wrong 2 'counting.*expected N, 6N or M' scale predict --csv "$dir/planted.csv" --flops 1e20 --counting K
wrong 1 'positive number of FLOPs' scale predict --csv "$dir/planted.csv" --flops -1 --bootstrap 2
wrong 1 'counting M: a point lacks m' scale predict --csv "$dir/planted.csv" --flops 1e20 --counting M --bootstrap 2
wrong 2 'bootstrap' scale fit --csv "$dir/planted.csv" --bootstrap 1
wrong 2 'method' scale fit --csv "$dir/planted.csv" --method best

# A study's directory needs only its points.csv; what a comparison left is read an arm at a time.
mkdir "$dir/study" "$dir/none" "$dir/new"
echo '{}' >"$dir/new/plan.json"
cp bench/results/2026-11-22-scale-study.csv "$dir/study/points.csv"
ok scale fit --study "$dir/study" --bootstrap 20
has "$dir/out" '^28 points'
has "$dir/out" '^  isoflop  *M, C = MD  *0\.516 \['
has "$dir/out" 'no minimum from 1.54e+04'
ok scale fit --study "$dir/study" --bootstrap 20 --counting M
has "$dir/out" '^Parametric: L = E + A/M^alpha'
ok scale predict --study "$dir/study" --below 9e12 --flops 2.49e13 --bootstrap 20
has "$dir/out" '^  loss  *3\.786[0-9]  \['
wrong 1 'no run has ended yet; fathom scale run' scale fit --study "$dir/new"
wrong 1 'no study there' scale plot --study "$dir/none"
cp bench/results/2026-11-22-scale-compare-dense.csv "$dir/study/points.csv"
wrong 1 'points.csv: line 5: arm "dense" beside "baseline".*--arm' scale fit --study "$dir/study"
wrong 1 'no run of arm "muon"' scale fit --study "$dir/study" --arm muon
wrong 1 'envelope: one token count only; .*parametric: fewer than three token counts.*ran: none' \
    scale fit --study "$dir/study" --arm dense --bootstrap 20

# Bad files: the line and the reason.
bad() { # words, text
    printf "$2" >"$dir/bad.csv"
    wrong 1 "bad.csv: $1" scale fit --csv "$dir/bad.csv" --json
}
bad 'line 1: no column for loss' 'params,tokens\n1,2\n'
bad 'line 3: column "tokens": expected a number' 'params,tokens,loss\n1e6,1e7,3\n1e6,x,3\n'
bad 'line 2: column "loss": expected a positive number, found 0' 'params,tokens,loss\n1e6,1e7,0\n'
bad 'line 2: column "params": expected a positive number, found -1' 'params,tokens,loss\n-1,1e7,3\n'
bad '1 point; no method' 'params,tokens,loss\n1e6,1e7,3\n'

# Too little: which methods can run.
planted 1e18 1 7 >"$dir/one.csv"
wrong 1 'one budget only.*Methods that ran: none.*--method isoflop gives the minimum' scale fit --csv "$dir/one.csv"
ok scale fit --csv "$dir/one.csv" --method isoflop
has "$dir/out" '^  1e+18  *7  '
head -5 "$dir/planted.csv" >"$dir/few.csv"
sed -n '8,9p;14,15p' "$dir/planted.csv" >>"$dir/few.csv"
sed -n '20p' "$dir/planted.csv" >>"$dir/few.csv"
head -8 "$dir/few.csv" >"$dir/seven.csv"
rc=0
"$FATHOM" scale fit --csv "$dir/seven.csv" --json >"$dir/out" 2>"$dir/err" || rc=$?
has "$dir/err" 'parametric: 7 points; 5 constants and their intervals need at least 8'
has "$dir/err" 'Methods that ran: '

# Plots, and the message where gnuplot is missing.
mkdir "$dir/empty"
rc=0
PATH="$dir/empty" "$FATHOM" scale plot --csv "$dir/planted.csv" --out "$dir/bare" --bootstrap 10 >"$dir/out" \
    2>"$dir/err" || rc=$?
same "exit code without gnuplot" 1 $rc
has "$dir/err" 'install gnuplot-nox'
for f in isoflop.dat isoflop.gp frontier.dat frontier.gp residuals.dat residuals.gp report.md; do
    [ -s "$dir/bare/$f" ] || fail "no $f without gnuplot"
done
wrong 2 '--out is missing' scale plot --csv "$dir/planted.csv"
if command -v gnuplot >/dev/null 2>&1; then
    for source in "$dir/planted.csv" $data/steplaw_dense_near.csv; do
        ok scale plot --csv "$source" --out "$dir/a plot's" --bootstrap 10
        for f in isoflop frontier residuals; do
            [ -s "$dir/a plot's/$f.svg" ] && [ -s "$dir/a plot's/$f.png" ] || fail "no $f of $source"
            has "$dir/a plot's/$f.svg" '</svg>'
        done
        [ ! -e "$dir/a plot's/gnuplot.log" ] || fail "a log is left behind"
    done
    has "$dir/a plot's/report.md" 'Step Law'
    has "$dir/a plot's/sweep.svg" '</svg>'
    ok scale plot --csv bench/results/2026-11-22-scale-study.csv --out "$dir/a plot's" --bootstrap 10 --counting M
    has "$dir/a plot's/isoflop.gp" "'9.2e+11, no minimum'"
    has "$dir/a plot's/frontier.svg" 'minima of valleys'
fi
echo "scale_fit.sh: done"
