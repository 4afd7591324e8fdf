# Completion of @PROGRAMS@ in bash 4 and later; printed by: @NAME@ completion bash
@FUNCTION@() {
    local line=${COMP_LINE:0:COMP_POINT} found word
    COMPREPLY=()
    if ! found=$(@PYTHON@ -I -m kiln.complete @TABLE@ @NAME@ "$line" 2> /dev/null); then
        compopt -o default 2> /dev/null
        return 0
    fi
    [[ -n $found ]] || return 0
    mapfile -t COMPREPLY <<< "$found"
    # For bash a colon and an equals sign end a word: what is before them is on the line already.
    word=${line##*[[:space:]]}
    if [[ $word == *[:=]* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[:=]}"}"}")
    fi
}
complete -F @FUNCTION@ @PROGRAMS@
